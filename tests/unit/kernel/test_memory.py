"""Memory that is given back after the start."""

from __future__ import annotations

import re
import subprocess
import sys
from mmap import MAP_PRIVATE, PROT_READ, mmap
from pathlib import Path

from vxland.kernel.memory import loaded, release_unused, unchanged_files

SCRIPT = """
import asyncio, ctypes, decimal, json, os, sqlite3, ssl
from vxland.kernel import memory

def resident(kind):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind + ":"))

libraries = memory.loaded()
for every in range(2):  # the second time, what came back
    files, own = resident("RssFile"), resident("RssAnon")
    memory.release_unused(libraries)
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


def resident_kib(path: Path) -> int:
    """Return the resident part of this process's mapping of a file."""
    _, _, entry = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    return int(re.findall(r"^Rss: +(\d+) kB", entry, re.MULTILINE)[0])


def test_a_library_that_another_thread_loads(tmp_path: Path) -> None:
    """A node ended with SIGSEGV at its start: what the loader had written for the fast path's library was unmapped.

    First the loader maps a library as this file is mapped here, and then the parts that it writes over that.
    """
    library = tmp_path / "library"
    library.write_bytes(bytes(1 << 20))
    before = loaded()
    with library.open("rb") as file, mmap(file.fileno(), 0, MAP_PRIVATE, PROT_READ) as mapped:
        assert mapped.find(b"x") == -1  # it is resident now
        release_unused(before)
        assert resident_kib(library) == 1024
        release_unused(loaded())
        assert resident_kib(library) == 0
