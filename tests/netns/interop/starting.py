"""Starts of vxland that end by themselves: exit codes, error lines, and `vxland check` of the same file."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S

from .daemon import ROOT, plain
from .lab import Vxland


def attempt(vxland: Vxland, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run `vxland run` to its end; a wrapper runs inside the namespace."""
    vxland.write()
    ip, netns, execute, name, *command = vxland.command()
    return subprocess.run(
        (ip, netns, execute, name, *wrapper, *command),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def refusals(vxland: Vxland, code: int, *wrapper: str) -> list[str]:
    """Return every line that `vxland run` prints before it ends with this exit code, after a check of their form."""
    done = attempt(vxland, *wrapper)
    assert (done.returncode, done.stdout) == (code, ""), done
    lines = plain(done.stderr).splitlines()
    assert all(line.startswith("vxland: ") for line in lines), done.stderr
    return [line.removeprefix("vxland: ") for line in lines]


def refused(vxland: Vxland, code: int, *wrapper: str) -> str:
    """Return the only line that `vxland run` prints before it ends with this exit code."""
    (line,) = refusals(vxland, code, *wrapper)
    return line


def check(vxland: Vxland, *options: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `vxland check` in node a; a wrapper runs it there."""
    vxland.write()
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "vxland", "check", "-c", str(vxland.path), *options)
    return vxland.node.ns.attempt(*wrapper, *command)
