"""The sandbox of the shipped unit, from inside; runs after test_service.py, which reads a first start's log."""

from __future__ import annotations

from tests.systemd.node import Service

FOLDERS = ("/run/vxland", "/run/flannel", "/var/lib/vxland", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  (the unit's)
DOORS = (
    f"FOLDERS = {FOLDERS}"
    """
import ctypes, errno, mmap, os, subprocess
from vxland.kernel import memfd

def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "done"

memfd.refuse()  # as the daemon does
print("door memfd", attempt(os.memfd_create, "code"))
anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
print("door memory", attempt(mmap.mmap, -1, 4096, anonymous, mmap.PROT_WRITE | mmap.PROT_EXEC))
print("door proc", attempt(os.open, "/proc/self/mem", os.O_RDWR))
for folder in FOLDERS:
    path = f"{folder}/code"
    with open(path, "w+b") as file:
        file.write(b"#!/bin/sh\\n".ljust(4096))
        file.flush()
        os.chmod(path, 0o755)
        code = mmap.PROT_READ | mmap.PROT_EXEC
        print("door map", folder, attempt(mmap.mmap, file.fileno(), 4096, mmap.MAP_PRIVATE, code))
    print("door run", folder, attempt(subprocess.run, (path,)))
    os.unlink(path)
"""
)
"""Each means to run new code, which the sandbox must refuse."""


def test_no_new_code_runs_in_the_sandbox(running: tuple[Service, Service]) -> None:
    """An exploited process wrote code to a file, a memfd or /proc/self/mem, and ran it.

    An ExecStartPre= makes the attempts; the unit confines it as it does the daemon.
    """
    service = running[0]
    script = service.node.etc / "doors.py"
    script.write_text(DOORS)
    script.chmod(0o644)
    folder = f"/run/systemd/system/{service.unit}.service.d"
    before = "[Service]\\nExecStartPre=/opt/vxland/bin/python /etc/vxland/doors.py\\n"
    service.node.run("sh", "-c", f"mkdir -p {folder}; printf '{before}' >{folder}/doors.conf")
    service.node.run("systemctl", "daemon-reload")
    try:
        service.systemctl("restart")
    finally:
        service.node.run("rm", "-r", folder)
        service.node.run("systemctl", "daemon-reload")
        script.unlink()
    found = (line.split()[1:] for line in service.log().splitlines() if line.startswith("door "))
    files = {f"{kind} {folder}": error for kind, error in (("map", "EPERM"), ("run", "EACCES")) for folder in FOLDERS}
    assert {" ".join(words[:-1]): words[-1] for words in found} == {
        "memfd": "EPERM",
        "memory": "EPERM",
        "proc": "EROFS",
        **files,
    }


def test_its_own_filter_works_behind_the_units(running: tuple[Service, Service]) -> None:
    """With the extra `hardening` the daemon adds a filter that checks arguments, which the unit's does not."""
    service = running[0]
    service.settings["security"] = {"seccomp": "on"}  # otherwise it would not start
    try:
        service.write()
        service.systemctl("restart")
        assert "confined" in service.log()
    finally:
        del service.settings["security"]
        service.write()
        service.systemctl("restart")
