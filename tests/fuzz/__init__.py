"""Coverage-guided fuzzing: one target a module, over the entry points that hostile bytes reach.

`make fuzz` runs them with libFuzzer (through atheris) over the compiled gear, which is then built with clang's coverage
and AddressSanitizer; test_corpus.py replays what was found worth keeping, in either gear and without a fuzzer.

A target has SEEDS, and checking(): a context manager of a function that takes bytes and raises where a promise is
broken. What a promise is stands in the target; not to crash, and to raise nothing but the family's errors, is in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, TypeAlias, cast

Check: TypeAlias = Callable[[bytes], None]

NAMES = (
    "datagrams",
    "frames",
    "virtio",
    "netconf",
    "leases",
    "annotations",
    "etcdanswers",
    "kubeanswers",
    "settings",
    "requests",
    "captures",
)


class Target(Protocol):
    """The contents of a target's module."""

    SEEDS: Sequence[bytes]

    def checking(self) -> AbstractContextManager[Check]:
        """The check, while what it needs is open."""
        ...


def target(name: str) -> Target:
    """The target of that name."""
    return cast("Target", import_module(f"tests.fuzz.{name}"))
