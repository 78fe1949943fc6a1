"""Descriptors that outlive a process: the service manager keeps them and hands them to the next one, sd_listen_fds(3).

A TAP queue or socket that somebody holds goes on queueing when nobody reads it, so a restart loses no frame that the
kernel has room for. Each descriptor has a name, ROLE/DEVICE/NUMBER. One that does not fit the settings any more has to
go, from the manager too, before another is opened in its place: it would keep its share of the flows, and its port.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

import structlog

Role: TypeAlias = Literal["tap", "receive", "public", "send"]

TakeFd: TypeAlias = Callable[[Role, int], int | None]
"""The inherited descriptor of a role and number, now the caller's; None where there is none."""

Mismatch: TypeAlias = Callable[[int], str]
"""Why a descriptor cannot be used; empty if it can. May raise OSError, which is a reason too."""

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_OWN_NETNS: Final = Path("/proc/thread-self/ns/net")

log = structlog.get_logger()


def name_of(role: Role, device: str, number: int) -> str:
    """What the manager knows a descriptor by."""
    return f"{role}/{device}/{number}"


class Inherited:
    """The descriptors that this process was started with, by name; those that have one in common come to nothing."""

    def __init__(self, descriptors: list[tuple[str, int]]) -> None:
        self._descriptors: dict[str, int] = {}
        self._unusable: set[str] = set()
        self._taken: set[str] = set()
        for name, fd in descriptors:
            os.set_inheritable(fd, False)  # iptables and nft have no use for it
            if name in self._descriptors or name in self._unusable:
                self._drop(name, "there are several of that name")
                os.close(fd)
            else:
                self._descriptors[name] = fd

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Inherited:
        """What LISTEN_FDS and LISTEN_FDNAMES tell of, if they are meant for this process; takes them out of there."""
        pid, count, names = (environ.pop(variable, "") for variable in _VARIABLES)
        if pid != str(os.getpid()) or not count.isdecimal():
            return cls([])
        last = _FIRST_FD + int(count)
        named = names.split(":") if names else []
        named += [""] * (int(count) - len(named))
        return cls(list(zip(named, range(_FIRST_FD, last), strict=False)))

    def sort_out(self, expected: Mapping[str, Mismatch]) -> set[str]:
        """Close what is not `expected`, or does not fit; the names of it, which the manager is to forget.

        Numbers above a missing 0 go too: who opens the first anew must be alone to see whether the port is free.
        """
        for name, fd in list(self._descriptors.items()):
            reason = _reason(expected[name], fd) if name in expected else "the settings have no use for it"
            if reason:
                self._drop(name, reason)
        for name in list(self._descriptors):
            if f"{name.rpartition('/')[0]}/0" not in self._descriptors:
                self._drop(name, "the first of them is missing")
        return self._unusable

    def of(self, device: str) -> TakeFd:
        """What takes the descriptors of a device from here."""

        def take(role: Role, number: int) -> int | None:
            name = name_of(role, device, number)
            fd = self._descriptors.pop(name, None)
            if fd is not None:
                self._taken.add(name)
            return fd

        return take

    def new_ones(self, descriptors: Mapping[str, int]) -> dict[str, int]:
        """Those that were not taken from here: the manager does not have them yet."""
        return {name: fd for name, fd in descriptors.items() if name not in self._taken}

    def close(self) -> None:
        """Close what nobody has taken."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _drop(self, name: str, reason: str) -> None:
        fd = self._descriptors.pop(name, None)
        if fd is not None:
            os.close(fd)
        self._unusable.add(name)
        log.warning("descriptor_dropped", name=name, reason=reason)


def nothing(_role: Role, _number: int) -> None:
    """Take where nothing was inherited."""


def in_another_netns(fd: int, request: int) -> bool:
    """Whether the namespace that ioctl `request` opens for `fd` is not this thread's. OSError."""
    theirs = fcntl.ioctl(fd, request)
    try:
        return not os.path.samestat(os.fstat(theirs), _OWN_NETNS.stat())
    finally:
        os.close(theirs)


def _reason(misfit: Mismatch, fd: int) -> str:
    try:
        return misfit(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
