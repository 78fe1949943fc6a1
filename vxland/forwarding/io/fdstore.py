"""Descriptors that outlive a process: the service manager keeps them and passes them to the next one, sd_listen_fds(3).

An open TAP queue or socket continues to queue without a reader, so a restart loses no frame that fits the kernel's
queues. Each descriptor has a name, ROLE/DEVICE/NUMBER. A descriptor that no longer fits the settings is closed, and
removed from the manager, before another is opened in its place: it would keep its share of the flows, and its port.
Descriptors with other names come from the program that started the process, such as sockets of a socket unit.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import structlog

Role: TypeAlias = Literal["tap", "receive", "public", "send"]

TakeFd: TypeAlias = Callable[[Role, int], int | None]
"""Returns the inherited descriptor of a role and number, which the caller then owns; None if there is none."""

Mismatch: TypeAlias = Callable[[int], str]
"""Returns why a descriptor cannot be used, "" if it can. May raise OSError, which is a reason too."""

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_SHOWN: Final = 20  # characters of a variable
_COUNT: Final = re.compile(r"[0-9]{1,4}")
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_STORED: Final = re.compile(r"(tap|receive|public|send)/[^/]+/\d+")  # as name_of()
_OWN_NETNS: Final = Path("/proc/thread-self/ns/net")

log = structlog.get_logger()


def name_of(role: Role, device: str, number: int) -> str:
    """Return the name of a descriptor in the manager's store."""
    return f"{role}/{device}/{number}"


class Missed(NamedTuple):
    """A fault of the variables that describe passed descriptors, and its remedy."""

    reason: str
    remedy: str


class Inherited:
    """The descriptors that this process inherited, by name; several of one name of the store are closed.

    `missed` says what is wrong with the variables; the program passed nothing if it is None and there are none.
    """

    def __init__(self, descriptors: list[tuple[str, int]], missed: Missed | None = None) -> None:
        self.missed = missed
        self._descriptors: dict[str, int] = {}
        self._foreign: list[tuple[str, int]] = []
        self._lent: Mapping[str, int] = {}
        self._unusable: set[str] = set()
        self._taken: set[str] = set()
        for name, fd in descriptors:
            try:
                os.set_inheritable(fd, False)  # not for iptables and nft
            except OSError as exc:
                self._drop(name, f"descriptor {fd}: {exc.strerror}")
                continue
            if not _STORED.fullmatch(name):
                self._foreign.append((name, fd))
            elif name in self._descriptors or name in self._unusable:
                self._drop(name, "there are several of that name")
                os.close(fd)
            else:
                self._descriptors[name] = fd

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Inherited:
        """Read LISTEN_FDS and LISTEN_FDNAMES, if they are for this process, and remove them from the environment.

        Call it before this process opens descriptors: it takes each of that number for one that was passed.
        """
        pid, count, names = (environ.pop(variable, "") for variable in _VARIABLES)
        if not count:
            return cls([])
        if pid != str(os.getpid()):
            remedy = "start vxland in that process, or set it where the last program before vxland starts it: "
            remedy += "sh -c 'LISTEN_PID=$$ exec vxland run ...'"
            return cls([], Missed(f"LISTEN_PID is {_shown(pid)}, and this process {os.getpid()}", remedy))
        if not _COUNT.fullmatch(count):
            remedy = f"set it to the number of sockets passed, from descriptor {_FIRST_FD} on, at most 9999"
            return cls([], Missed(f"LISTEN_FDS is {_shown(count)}", remedy))
        fds = range(_FIRST_FD, _FIRST_FD + int(count))
        named = names.split(":") if names else [""] * len(fds)
        missed = None
        if len(named) != len(fds):
            remedy = "set LISTEN_FDNAMES to as many names, with a colon between two"
            missed = Missed(f"LISTEN_FDS is {count}, and LISTEN_FDNAMES has {len(named)}", remedy)
        elif closed := next((fd for fd in fds if not _is_open(fd)), 0):
            remedy = f"pass so many from descriptor {_FIRST_FD} on, and let no program between close them"
            missed = Missed(f"LISTEN_FDS is {count}, and descriptor {closed} is closed", remedy)
        named += [""] * (len(fds) - len(named))
        found = zip(named, fds, strict=False)
        return cls([(name, fd) for name, fd in found if _STORED.fullmatch(name) or _is_open(fd)], missed)

    def take_foreign(self) -> list[tuple[str, int]]:
        """Return the descriptors whose names are not those of the store, with these names; the caller owns them."""
        foreign, self._foreign = self._foreign, []
        return foreign

    def lend(self, descriptors: Mapping[str, int]) -> None:
        """Hand out duplicates of these descriptors, by name, as often as they are taken; they stay the caller's."""
        self._lent = descriptors

    def sort_out(self, expected: Mapping[str, Mismatch]) -> set[str]:
        """Close descriptors that are not `expected` or do not fit; return their names, for the manager to remove.

        Without number 0 the others of its role are closed too: only without them does opening it show whether the port
        is free.
        """
        for name, fd in list(self._descriptors.items()):
            reason = _reason(expected[name], fd) if name in expected else "the settings have no use for it"
            if reason:
                self._drop(name, reason)
        for name, fd in self.take_foreign():
            os.close(fd)
            self._drop(name, "the settings have no use for it")
        for name in list(self._descriptors):
            if f"{name.rpartition('/')[0]}/0" not in self._descriptors:
                self._drop(name, "the first of them is missing")
        return self._unusable

    def of(self, device: str) -> TakeFd:
        """Return the function that takes this device's descriptors."""

        def take(role: Role, number: int) -> int | None:
            name = name_of(role, device, number)
            if name in self._lent:
                return os.dup(self._lent[name])
            fd = self._descriptors.pop(name, None)
            if fd is not None:
                self._taken.add(name)
            return fd

        return take

    def new_ones(self, descriptors: Mapping[str, int]) -> dict[str, int]:
        """Return the descriptors that were neither inherited nor lent: the manager does not have them yet."""
        return {name: fd for name, fd in descriptors.items() if name not in self._taken and name not in self._lent}

    def close(self) -> None:
        """Close the descriptors that were not taken, except lent ones."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _drop(self, name: str, reason: str) -> None:
        fd = self._descriptors.pop(name, None)
        if fd is not None:
            os.close(fd)
        self._unusable.add(name)
        log.warning("descriptor_dropped", name=name, reason=reason)


def nothing(_role: Role, _number: int) -> None:
    """Return None: nothing was inherited."""


def in_another_netns(fd: int, request: int) -> bool:
    """Whether `fd` belongs to another network namespace than this thread's. Raises OSError.

    ioctl `request` opens the namespace of `fd`.
    """
    theirs = fcntl.ioctl(fd, request)
    try:
        return not os.path.samestat(os.fstat(theirs), _OWN_NETNS.stat())
    finally:
        os.close(theirs)


def _shown(value: str) -> str:
    return ascii(value)[1:-1][:_SHOWN] or "empty"


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _reason(mismatch: Mismatch, fd: int) -> str:
    try:
        return mismatch(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
