"""Errors: each one names its cause and the remedy. Pure."""

from __future__ import annotations

from typing import Final

from vxland.model.secrets import masked
from vxland.model.text import printable

_MAX_LEN: Final = 4096  # a remedy may name all interfaces of the node


class VxlandError(Exception):
    """Base of all errors; `str()` is one line without secrets, safe for a terminal even if it quotes foreign text."""

    def __str__(self) -> str:
        return printable(masked(super().__str__()), _MAX_LEN)


class ConfigError(VxlandError):
    """One setting that cannot be used: its key, its value, and the remedy."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key}: {value!r}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


class InvalidConfigError(VxlandError):
    """Every problem of one configuration; never empty. `str()` gives one line each."""

    def __init__(self, problems: list[ConfigError]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class FlagError(VxlandError):
    """A command line that cannot be used: the flag, then what to write instead."""


class StartError(VxlandError):
    """The node cannot run as configured: the cause, then the remedy."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}; {remedy}")
        self.cause = cause
        self.remedy = remedy


class LeaseLostError(VxlandError):
    """The lease of this node is gone from the registry, and its subnet belongs to another node now."""


class OccupiedError(StartError):
    """Another program has a resource that the node needs, and may release it: waiting helps."""


class FlanneldRunningError(OccupiedError):
    """flanneld runs on this node: vxland leaves it everything that both need."""
