"""Privileges of the process: prctl(2), capset(2) and the change of user.

They use ctypes, since Python has none of these calls. Capabilities belong to a thread, so all of this must happen
before a second thread exists.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CAPABILITIES: Final = (  # linux/capability.h, in the order of their numbers
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
NET_ADMIN: Final = CAPABILITIES.index("NET_ADMIN")
BPF: Final = CAPABILITIES.index("BPF")

_CAPSET_VERSION: Final = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3: three masks of 64 bits, each in two halves
_SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 8, 23, 24, 38  # linux/prctl.h
_CAP_AMBIENT, _AMBIENT_RAISE = 47, 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Privileges:
    """The privileges of this process, as the kernel reports them."""

    user: str
    capabilities: tuple[str, ...]
    """The effective capabilities, in the order of their numbers."""

    no_new_privs: bool
    seccomp: bool
    """Whether a filter of system calls is installed, no matter by which program."""


def held() -> Privileges:
    """Read the privileges of this thread, which every later thread inherits."""
    lines = Path("/proc/thread-self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    mask = int(fields["CapEff"], 16)
    names = tuple(f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if mask >> number & 1)
    return Privileges(_name(os.geteuid()), names, fields.get("NoNewPrivs") == "1", fields.get("Seccomp") == "2")


def become(user: pwd.struct_passwd, *, keep_bpf: bool = False) -> None:
    """Change to the user and its groups permanently, with CAP_NET_ADMIN alone, for started programs too.

    `keep_bpf`: and with CAP_BPF, if this process has it. No executed program can gain more. PermissionError: root lacks
    a capability that this needs.
    """
    kept = {NET_ADMIN, BPF} if keep_bpf and "CAP_BPF" in held().capabilities else {NET_ADMIN}
    for number in range(64):
        if number not in kept and _libc.prctl(_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(_CAPBSET_DROP, number)
    if user.pw_uid != os.getuid():
        _prctl(_SET_KEEPCAPS, 1)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _capset(sum(1 << number for number in kept))
    for number in kept:
        _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, number)
    no_new_privileges()


def no_new_privileges() -> None:
    """Keep executed programs from gaining privileges that this process lacks."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def _capset(mask: int) -> None:
    """Make `mask` the effective, permitted and inheritable capabilities."""
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    header = struct.pack("=Ii", _CAPSET_VERSION, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)) != 0:
        _raise()


def _prctl(option: int, *arguments: int) -> None:
    four = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]  # unused ones must be 0
    if _libc.prctl(option, *four) != 0:
        _raise()


def _raise() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
