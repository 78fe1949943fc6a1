"""The loop that runs the daemon and its workers, with uvloop and without."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
if sys.argv[1] == "asyncio":
    sys.modules["uvloop"] = None
import vxland.cli.main, vxland.forwarding.worker, vxland.node.daemon
from vxland.kernel.event_loop import new_event_loop
with asyncio.Runner(loop_factory=new_event_loop) as runner:
    print(type(runner.get_loop()).__module__.partition(".")[0])
"""


@pytest.mark.parametrize("wanted", ["uvloop", "asyncio"])
def test_runs_without_uvloop(wanted: str) -> None:
    """The loop of asyncio takes the place of uvloop, for which `pip install` wanted a compiler on 32-bit ARM."""
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM, wanted], capture_output=True, check=True, text=True)
    assert done.stdout == f"{wanted}\n"
