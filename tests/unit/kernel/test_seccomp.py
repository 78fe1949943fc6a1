"""The filter of system calls, in separate processes: its refusals, and that vxland still works behind it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from platform import machine

import pytest

from vxland.kernel import seccomp

ROOT = Path(__file__).parents[3]
BEFORE = """
import ctypes, errno, fcntl, mmap, os, socket, subprocess, tempfile, termios, threading
from vxland.kernel import privilege, seccomp

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p

def code(call, *arguments):
    return ctypes.get_errno() if getattr(libc, call)(*arguments) in (-1, ctypes.c_void_p(-1).value) else 0

def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as exc:
        return exc.errno
    return 0

def mapped(protection, flags, fd=-1):
    return code("mmap", None, ctypes.c_size_t(4096), protection, flags, fd, ctypes.c_long(0))

file = tempfile.TemporaryFile(dir=os.environ["SCRATCH"])
file.truncate(4096)
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
ANONYMOUS = mmap.MAP_ANONYMOUS
library = seccomp.library()
"""
INSTALL = "seccomp.install(library)\n"
OWN_PAGE = "ctypes.c_void_p(id(0) & ~4095), ctypes.c_size_t(4096)"

pytestmark = pytest.mark.skipif(
    seccomp.library() is None, reason="pip install pyseccomp, apt-get install libseccomp2: or no filter for this CPU"
)


def run(text: str, scratch: Path, before: str = "") -> str:
    """Run `before` without and `text` behind the filter, with an open file in `scratch`; return the output."""
    done = subprocess.run(
        (sys.executable, "-c", BEFORE + before + INSTALL + text),
        cwd=ROOT,
        env=os.environ | {"SCRATCH": str(scratch)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "attempt",
    [
        'code("mount", b"none", b"/mnt", b"tmpfs", 0, None)',
        'code("unshare", 0x10000000)',  # a user namespace, which takes no privilege
        'code("syscall", 56, 0x10000011, 0, 0, 0, 0)',  # the same by clone
        'code("ptrace", 0, 0, 0, 0)',
        'code("personality", 0)',
        'code("setuid", 0)',
        'code("syscall", 321, 0, 0, 0)',  # bpf
        'code("syscall", 425, 1, 0)',  # io_uring_setup
        'code("syscall", 250, 0, 0, 0, 0, 0)',  # keyctl
        "attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)",
        "attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)",
        "attempt(fcntl.ioctl, 1, termios.TIOCSTI, b'x')",  # types into the terminal that vxland was started from
        'code("ioctl", 1, ctypes.c_ulong(termios.TIOCSTI | 1 << 32), b"x")',  # the kernel reads the low 32 bits
        'code("ioctl", 1, 0x541C, b"x")',  # TIOCLINUX, which pastes into a console
    ],
)
def test_refused_with_eperm(attempt: str, tmp_path: Path) -> None:
    """These calls do not reach the kernel, with root's privilege or without."""
    if "syscall" in attempt and machine() != "x86_64":
        pytest.skip("the numbers of the calls are x86_64's")
    assert run(f"print(errno.errorcode.get({attempt}))", tmp_path) == "EPERM"


@pytest.mark.parametrize(
    "attempt",
    [
        "mapped(WRITE | EXEC, mmap.MAP_PRIVATE | ANONYMOUS)",
        "mapped(WRITE | EXEC, mmap.MAP_PRIVATE, file.fileno())",
        "mapped(EXEC, mmap.MAP_PRIVATE | ANONYMOUS)",
        "mapped(EXEC, mmap.MAP_SHARED | ANONYMOUS)",  # mremap makes a second mapping of it, to write through
        "mapped(EXEC, 3 | ANONYMOUS)",  # MAP_SHARED_VALIDATE
        "mapped(READ | EXEC, mmap.MAP_SHARED, file.fileno())",
        "mapped(READ | EXEC, 3, file.fileno())",
        f'code("mprotect", {OWN_PAGE}, READ | EXEC)',
        f'code("pkey_mprotect", {OWN_PAGE}, READ | EXEC, -1)',
        'code("shmat", 0, None, 0o100000)',  # SHM_EXEC
        'attempt(os.memfd_create, "code")',
        'code("syscall", 447, 0)',  # memfd_secret
        'code("syscall", 322, file.fileno(), b"", None, None, 0x1000)',  # execveat of a file without a name
        'code("syscall", 323, 0)',  # userfaultfd
        'code("process_vm_writev", os.getpid(), None, 0, None, 0, 0)',
        'code("remap_file_pages", None, 4096, 0, 0, 0)',
    ],
)
def test_no_memory_is_written_and_then_run(attempt: str, tmp_path: Path) -> None:
    """An attacker wrote code into a memfd through one mapping and ran it through another."""
    if "syscall" in attempt and machine() != "x86_64":
        pytest.skip("the numbers of the calls are x86_64's")
    assert run(f"print(errno.errorcode.get({attempt}))", tmp_path) == "EPERM"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_stays_closed(tmp_path: Path) -> None:
    """With `security.user` a process cannot write to its own code by /proc/self/mem, nor make itself open again."""
    become = 'import pwd\nprivilege.become(pwd.getpwnam("nobody"))\n'
    attempts = """
found = [code("prctl", option, 1, 0, 0, 0) for option in (4, ctypes.c_ulong(4 | 1 << 32))]  # PR_SET_DUMPABLE
found.append(attempt(os.open, "/proc/self/mem", os.O_RDWR))
print([errno.errorcode.get(one) for one in found], code("prctl", 15, b"name", 0, 0, 0))
"""
    assert run(attempts, tmp_path, before=become) == "['EPERM', 'EPERM', 'EACCES'] 0"


def test_allowed_calls(tmp_path: Path) -> None:
    """Threads, programs with pipes, late imports of compiled modules and sockets of the four families work."""
    assert (
        run(
            """
thread = threading.Thread(target=lambda: print("thread"), daemon=True)
thread.start()
thread.join()
print(subprocess.run(("sh", "-c", "cat; echo done | cat"), input=b"pipe ", capture_output=True, check=True).stdout)
import decimal, sqlite3, uvloop
uvloop.run(__import__("asyncio").sleep(0))
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    socket.socket(family, socket.SOCK_DGRAM).close()
held = privilege.held()
print(held.seccomp, held.no_new_privs)
""",
            tmp_path,
        )
        == "thread\nb'pipe done\\n'\nTrue True"
    )
