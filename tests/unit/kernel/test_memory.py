"""Memory that is given back after the start."""

from __future__ import annotations

import subprocess
import sys

from vxland.kernel.memory import unchanged_files

SCRIPT = """
import asyncio, ctypes, decimal, json, os, sqlite3, ssl
from vxland.kernel import memory

def resident(kind):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind + ":"))

for every in range(2):  # the second time, what came back
    files, own = resident("RssFile"), resident("RssAnon")
    memory.release_unused()
    assert resident("RssFile") < files * 0.8, (files, resident("RssFile"))
    assert abs(resident("RssAnon") - own) < 2048
    assert ssl.create_default_context().get_ciphers()
    assert sqlite3.connect(":memory:").execute("select 2 + 3").fetchone() == (5,)
    assert decimal.Decimal("0.1") * 3 == decimal.Decimal("0.3")
    asyncio.run(asyncio.sleep(0))
    try:
        json.loads("{")
    except ValueError:
        pass
print("works")
"""
SMAPS = """\
55d0c0a00000-55d0c0a01000 r--p 00000000 fe:00 131 /usr/bin/python3.11
Size:                  4 kB
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0c0a01000-55d0c0a09000 r-xp 00001000 fe:00 131 /usr/bin/python3.11 (deleted)
Anonymous:             0 kB
55d0c0a09000-55d0c0a0a000 r--p 00009000 fe:00 131 /usr/bin/python3.11
Anonymous:             4 kB
55d0c0a0a000-55d0c0a0b000 rw-p 0000a000 fe:00 131 /usr/bin/python3.11
Anonymous:             0 kB
55d0c0b00000-55d0c0c00000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r--s 00000000 00:01 77 /dev/zero (deleted)
Anonymous:             0 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
"""


def test_only_unchanged_pages_of_files() -> None:
    """Not the pages that the dynamic loader changed, nor memory without a file, shared memory or the kernel's page."""
    found = [f"{start:x}-{end:x}" for start, end in unchanged_files(SMAPS.splitlines(keepends=True))]
    assert found == ["55d0c0a00000-55d0c0a01000", "55d0c0a01000-55d0c0a09000"]


def test_everything_still_works() -> None:
    """Libraries run on, and pages of files that are not used again are no longer resident."""
    done = subprocess.run((sys.executable, "-P", "-c", SCRIPT), check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("works\n", 0), done.stderr
