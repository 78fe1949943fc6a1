"""A filter of one system call, memfd_create: a file in memory can be written through one mapping and run by another.

The systemd units leave this call to the daemon, because libbpf from 1.4 on makes such files when it opens an object, as
placeholders for maps (tools/lib/bpf/libbpf.c, create_placeholder_fd()). The daemon opens its objects at the start, and
then refuses the call for good. It needs no library, unlike the filter of seccomp.py, which includes this one.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from platform import machine
from typing import Final

_CALLS: Final = {  # by machine: AUDIT_ARCH_* of linux/audit.h, and the number of memfd_create
    "x86_64": (0xC000_003E, 319),
    "aarch64": (0xC000_00B7, 279),
    "armv7l": (0x4000_0028, 385),
    "riscv64": (0xC000_00F3, 279),
    "ppc64le": (0xC000_0015, 360),
}
_SET_SECCOMP, _MODE_FILTER = 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # linux/bpf_common.h: of 32 bits, with constants
_NUMBER_AT, _MACHINE_AT = 0, 4  # of struct seccomp_data
_X32: Final = 0x4000_0000  # a bit of the numbers of x86's third ABI
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0000 | errno.EPERM

_libc: Final = ctypes.CDLL(None, use_errno=True)


def refuse() -> bool:
    """Refuse memfd_create to this thread and its children with EPERM, for good.

    Return whether that is possible: the machine is known, and the process can gain no privileges.
    """
    if machine() not in _CALLS:
        return False
    abi, number = _CALLS[machine()]
    steps = (
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 0, 4, abi),  # else allow: a unit's SystemCallArchitectures= refuses other ABIs
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AND, 0, 0, 0xFFFF_FFFF ^ _X32),
        (_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    return int(_libc.prctl(_SET_SECCOMP, _MODE_FILTER, program, ctypes.c_ulong(0), ctypes.c_ulong(0))) == 0
