"""Scheduling of the daemon's threads: the event loop runs soon after it wakes, even if the workers use every CPU.

The event loop needs a CPU seldom and briefly: for answers, pings, the watchdog and changes of leases. While others use
all CPUs it is late by the time that it waits for one. Neither function needs a capability, and without effect, frames
and answers just wait longer.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from platform import machine
from typing import Final

from vxland.kernel.cpu import has_own_share

SLICE_NS: Final = 100_000
"""The shortest slice of Linux 6.12 and later; 2.8 ms by default. A thread with a shorter slice gets a CPU earlier, and
no more of it."""

NICE: Final = 5
"""A third of the weight of a thread that is not nice; see sched(7)."""

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380, "ppc64le": 355}
_ATTR: Final = struct.Struct("=IIQiIQQQ")  # struct sched_attr, first version: size, policy, flags, nice, ...
_RESET_ON_FORK: Final = 1  # neither threads nor programs that this thread starts inherit the slice


def wake_early() -> None:
    """Give the calling thread the shortest slice, and not its children. No effect before Linux 6.12, or if refused."""
    number = _SCHED_SETATTR.get(machine())
    syscall = ctypes.CDLL(None).syscall
    attr = ctypes.create_string_buffer(_ATTR.size)
    # sched_getattr(2), whose number is the next one. os.sched_getscheduler() fails on musl, which does not have it.
    if number is None or syscall(number + 1, 0, attr, _ATTR.size, 0) != 0:
        return
    _, policy, _, nice, _, _, _, _ = _ATTR.unpack(attr.raw)
    if policy == os.SCHED_OTHER:
        syscall(number, 0, _ATTR.pack(_ATTR.size, policy, _RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0), 0)


def give_way() -> None:
    """Make the calling thread nicer than the others of this process, unless other programs would get its CPU time.

    That would be so where the process shares its control group, or autogroup, with them.
    """
    if has_own_share():
        with suppress(OSError):  # a filter of system calls
            os.nice(NICE)
