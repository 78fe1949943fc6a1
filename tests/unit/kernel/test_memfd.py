"""The filter of memfd_create, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from platform import machine

import pytest

from vxland.kernel import memfd

ROOT = Path(__file__).parents[3]
PROGRAM = """
import errno, os, subprocess, sys, tempfile, threading
from vxland.kernel import memfd, privilege

privilege.no_new_privileges()
os.close(os.memfd_create("before"))
print(memfd.refuse(), privilege.held().seccomp)

def attempt():
    try:
        os.memfd_create("code")
    except OSError as exc:
        print(errno.errorcode[exc.errno], flush=True)

attempt()
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
program = [sys.executable, "-c", "import os; os.memfd_create('code')"]
print(subprocess.run(program, capture_output=True, text=True, check=False).stderr.splitlines()[-1].split(":")[0])
with tempfile.TemporaryFile() as file:
    print(file.write(b"other calls work"))
"""


@pytest.mark.skipif(machine() != "x86_64", reason="the filter is tested on x86_64")
def test_no_file_in_memory() -> None:
    """Neither the process nor its later threads and programs can make one; nothing else is refused."""
    command = (sys.executable, "-c", PROGRAM)
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True True", "EPERM", "EPERM", "PermissionError", "16"]


def test_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is refused if the number of the call is not known."""
    monkeypatch.setattr(memfd, "machine", lambda: "s390x")
    assert not memfd.refuse()
