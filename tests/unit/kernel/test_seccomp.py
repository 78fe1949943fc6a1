"""The filter of system calls, in processes of its own: what it refuses, and that what vxland does goes on working."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from platform import machine

import pytest

from vxland.kernel import seccomp

ROOT = Path(__file__).parents[3]
BEFORE = """
import ctypes, errno, mmap, os, socket, subprocess, threading
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

seccomp.install(seccomp.library())
"""
PAGE = "ctypes.c_void_p(0), ctypes.c_size_t(4096)"
ANONYMOUS = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0)"

pytestmark = pytest.mark.skipif(
    seccomp.library() is None, reason="pip install pyseccomp, apt-get install libseccomp2: or no filter for this CPU"
)


def run(text: str) -> str:
    """What a Python prints that runs `text` behind the filter."""
    done = subprocess.run(
        (sys.executable, "-c", BEFORE + text), cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
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
        f'code("mmap", {PAGE}, mmap.PROT_WRITE | mmap.PROT_EXEC, {ANONYMOUS})',
        'code("mprotect", ctypes.c_void_p(id(0) & ~4095), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC)',
    ],
)
def test_refused_with_eperm(attempt: str) -> None:
    """Root's privilege or not: these calls do not reach the kernel."""
    if "syscall" in attempt and machine() != "x86_64":
        pytest.skip("the numbers of the calls are x86_64's")
    assert run(f"print(errno.errorcode.get({attempt}))") == "EPERM"


def test_what_it_allows() -> None:
    """Threads, programs with pipes, late imports of compiled modules, sockets of the four families; and it is on."""
    assert (
        run("""
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
""")
        == "thread\nb'pipe done\\n'\nTrue True"
    )
