"""A kernel that refuses writes of some shapes: a system call filter for one thread, or for a program and its children.

The pump writes a frame with writev(2): virtio header and frame are two ranges, each further segment of a run adds one,
and a segment cut by vxland has three. So the number of ranges identifies the write. A filter sees only numbers
(seccomp(2)), and stays as long as its thread or program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WRITEV: Final = {"x86_64": 20, "aarch64": 66, "riscv64": 66}.get(os.uname().machine)
"""The number of writev(2) here; None if it is not known."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
_NUMBER_AT, _RANGES_AT = 0, 32  # of struct seccomp_data: the call's number, and the low half of its third argument
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000


def refuse_writes(least: int, most: int, code: int = errno.EINVAL) -> None:
    """Make this thread's further writev(2) calls of `least` to `most` ranges fail."""
    assert WRITEV is not None
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _NUMBER_AT),
            (_EQUAL, 0, 4, WRITEV),
            (_LOAD, 0, 0, _RANGES_AT),
            (_AT_LEAST, 0, 2, least),
            (_AT_LEAST, 1, 0, most + 1),
            (_RETURN, 0, 0, _ERRNO | code),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    filter_ = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(filter_))
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


def while_refusing(least: int, most: int, job: Callable[[], T], code: int = errno.EINVAL) -> T:
    """Run `job()` in a thread whose writes of such shapes fail; return its result."""
    with ThreadPoolExecutor(1, initializer=refuse_writes, initargs=(least, most, code)) as thread:
        return thread.submit(job).result()


def launcher(least: int, most: int) -> tuple[str, ...]:
    """Return the words before a command line that make the program's writes of such shapes fail."""
    return (sys.executable, __file__, str(least), str(most))


if __name__ == "__main__":
    refuse_writes(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606  (needs no shell)
