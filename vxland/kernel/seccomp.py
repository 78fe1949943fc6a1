"""A filter of system calls for the daemon and the programs that it starts, if no service manager has set one.

It allows the calls of the units' SystemCallFilter, except those that vxland never needs: no mounts, modules, clocks,
tracing, keys, namespaces or changes of user; bpf for the fast path alone; sockets of four families. The kernel refuses
the rest with EPERM. Calls on the path of a frame are allowed by number alone, which has no measurable cost.

Only files can be executed. Executable memory is a private mapping of a file, as the dynamic loader makes it: never
writable, never anonymous, never shared, and no other mapping becomes executable later. A file in memory (memfd) cannot
be made, since it could be written through one mapping and executed through another. No input is pushed to a terminal.
A filter sees numbers, not paths; docs/security.md lists what it leaves out on purpose.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import termios
from collections.abc import Iterable, Iterator
from platform import machine
from types import ModuleType
from typing import Any, Final, TypeAlias

_CALLS: Final = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range lseek _llseek dup dup2 dup3
sendfile sendfile64 splice tee copy_file_range

open openat openat2 creat access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx
statfs statfs64 fstatfs fstatfs64 getdents getdents64 getcwd chdir fchdir readlink readlinkat mkdir mkdirat rmdir rename
renameat renameat2 unlink unlinkat link linkat symlink symlinkat truncate truncate64 ftruncate ftruncate64 fallocate
chmod fchmod fchmodat fchmodat2 chown chown32 lchown lchown32 fchown fchown32 fchownat umask utime utimes utimensat
utimensat_time64 futimesat getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr flock fcntl fcntl64 fsync
fdatasync sync_file_range fadvise64 fadvise64_64 arm_fadvise64_64 readahead inotify_init inotify_init1
inotify_add_watch inotify_rm_watch

brk munmap mremap madvise msync mincore mlock mlock2 munlock membarrier get_mempolicy cacheflush riscv_flush_icache

epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll ppoll_time64 select _newselect
pselect6 pselect6_time64 eventfd eventfd2 pipe pipe2 timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime
timerfd_gettime64 signalfd signalfd4

bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown send sendto sendmsg sendmmsg
recv recvfrom recvmsg recvmmsg recvmmsg_time64 socketpair

fork vfork execve exit exit_group wait4 waitid waitpid kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
pidfd_open pidfd_send_signal getpid getppid gettid getpgid getpgrp getsid setsid setpgid set_tid_address set_robust_list
get_robust_list futex futex_time64 futex_waitv rseq arch_prctl set_thread_area get_thread_area set_tls prlimit64
getrlimit ugetrlimit getrusage times sysinfo uname getcpu sched_yield sched_getaffinity sched_getparam
sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min getpriority riscv_hwprobe

getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
getgroups getgroups32 capget

rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 sigaction
sigprocmask sigreturn sigsuspend sigaltstack signal pause restart_syscall alarm getitimer setitimer timer_create
timer_settime timer_settime64 timer_gettime timer_gettime64 timer_delete timer_getoverrun nanosleep clock_nanosleep
clock_nanosleep_time64 clock_gettime clock_gettime64 clock_getres clock_getres_time64 gettimeofday time getrandom
"""
_NEW_NAMESPACES: Final = 0x7E02_0080  # linux/sched.h: all of CLONE_NEW*, which the low bits of flags hold
_WRITE, _EXEC = mmap.PROT_WRITE, mmap.PROT_EXEC
_MAP_TYPE: Final = 0x0F  # linux/mman.h: MAP_SHARED, MAP_PRIVATE and so on
_SET_DUMPABLE: Final = 4  # linux/prctl.h
_TO_TERMINALS: Final = (termios.TIOCSTI, 0x541C)  # and TIOCLINUX, which pastes: input as if it had been typed
_LOW: Final = 0xFFFF_FFFF  # the bits of a register that the kernel reads of an int
_ARRIVED_LATER: Final = ("clone3",)  # its flags are in memory, unreadable for a filter: glibc then uses clone


Library: TypeAlias = ModuleType

MACHINES: Final = ("x86_64", "aarch64", "armv7l", "riscv64", "ppc64le")
"""Machines on which clone and mmap take their arguments in the order that the filter assumes."""


def library() -> Library | None:
    """Return pyseccomp; None if it or libseccomp is not installed, or MACHINES lacks this machine."""
    if machine() not in MACHINES:
        return None
    try:
        import pyseccomp  # noqa: PLC0415  (optional)
    except (ImportError, OSError, RuntimeError):  # its import fails without libseccomp.so.2
        return None
    return pyseccomp  # type: ignore[no-any-return]  # an extra without types


def install(seccomp: Library, *, allow_bpf: bool = False) -> None:
    """Filter the system calls of this thread and its children permanently. OSError: the kernel has no filters.

    `allow_bpf`: for the fast path, which loads programs when the device is set up, and again after changes.
    """
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in (*_CALLS.split(), *(("bpf",) if allow_bpf else ())):
        _add(seccomp, rules, seccomp.ALLOW, name)
    for name in _ARRIVED_LATER:
        _add(seccomp, rules, seccomp.ERRNO(errno.ENOSYS), name)
    for name, *arguments in _conditions(seccomp):
        _add(seccomp, rules, seccomp.ALLOW, name, *arguments)
    rules.load()


def _conditions(seccomp: Library) -> Iterator[tuple[str, *tuple[Any, ...]]]:
    """Calls that are allowed with these arguments; two entries of one call: either of them."""
    code = seccomp.Arg(2, seccomp.MASKED_EQ, _WRITE | _EXEC, _EXEC)
    from_a_file = seccomp.Arg(3, seccomp.MASKED_EQ, _MAP_TYPE | mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE)
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
        yield "socket", seccomp.Arg(0, seccomp.EQ, family)
    yield "setpriority", seccomp.Arg(0, seccomp.EQ, os.PRIO_PROCESS), seccomp.Arg(1, seccomp.EQ, 0)  # of this thread
    yield "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _NEW_NAMESPACES, 0)
    for name in ("mmap", "mmap2"):
        yield name, seccomp.Arg(2, seccomp.MASKED_EQ, _EXEC, 0)
        yield name, code, from_a_file
    yield "mprotect", seccomp.Arg(2, seccomp.MASKED_EQ, _EXEC, 0)
    for mask, value in _others((_SET_DUMPABLE,)):  # a process that changed its user stays closed: /proc/self/mem
        yield "prctl", seccomp.Arg(0, seccomp.MASKED_EQ, mask, value)
    for mask, value in _others(_TO_TERMINALS):
        yield "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, mask, value)


def _others(values: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Masks and masked values that together match all numbers of 32 bits except `values`.

    A comparison for inequality would compare all 64 bits of the register, of which the kernel reads only 32.
    """
    for shift in reversed(range(32)):
        taken = {value >> shift for value in values}
        for block in sorted({prefix ^ 1 for prefix in taken} - taken):
            yield _LOW >> shift << shift, block << shift


def _add(seccomp: Library, rules: Any, action: Any, name: str, *arguments: Any) -> None:  # noqa: ANN401  (untyped)
    """Add a rule, unless this architecture has no such call, or had it only before 32 bits were too few."""
    try:
        number = seccomp.resolve_syscall(seccomp.system_arch(), name)
    except (OSError, ValueError, RuntimeError):
        return
    if number >= 0:
        rules.add_rule(action, number, *arguments)
