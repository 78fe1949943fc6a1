"""vxland, started by root in a folder that somebody else can write to, imports nothing from there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vxland.lab import shell

ROOT = Path(__file__).parents[2]
MODULES = (
    "yaml",
    "structlog",
    "click",
    "pydantic",
    "uvloop",
    "pyroute2",
    "aiohttp",
    "cython",
    "asyncio",
    "json",
    "socket",
)
CONFIG = """\
overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}
underlay: {address: 192.168.111.128}
registry: {peers: [{subnet: 10.244.1.0/24, vtep: 192.168.111.129, mac: "3a:87:cf:81:6a:ce"}]}
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that leave a trace when they are imported: what vxland uses, and a vxland."""
    trace = tmp_path / "trace"
    folder = tmp_path / "here"
    package = folder / "vxland"
    package.mkdir(parents=True)
    for path in (*(folder / f"{name}.py" for name in MODULES), package / "__init__.py", package / "__main__.py"):
        path.write_text(f"with open({str(trace)!r}, 'a') as file: file.write(__name__ + ' ')\n")
    (folder / "node.yaml").write_text(CONFIG)
    return folder


def run(folder: Path, *command: str) -> tuple[int, str]:
    """Exit code of a command that is run in the folder, and what was imported from there."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    trace = folder.parent / "trace"
    return done.returncode, trace.read_text() if trace.exists() else ""


@pytest.mark.parametrize("command", ["vxland check -c node.yaml", "vxland.ctl --version"])
def test_started_by_name(hostile: Path, command: str) -> None:
    """`python -m vxland` in somebody else's folder ran that one's yaml.py as root.

    Python itself looks for the package there first, before any line of ours: here it is not.
    """
    for path in (hostile / "vxland").iterdir():
        path.unlink()
    (hostile / "vxland").rmdir()
    assert run(hostile, sys.executable, "-m", *command.split()) == (0, "")


@pytest.mark.parametrize("command", ["vxland check -c node.yaml", "vxland.ctl --version"])
def test_started_by_vxland(hostile: Path, command: str) -> None:
    """Programs that the demo and the benchmark start import neither modules nor vxland itself from there."""
    assert run(hostile, *shell.PYTHON, "-m", *command.split()) == (0, "")
    assert run(hostile, *shell.PYTHON, "-c", "import vxland.cli.main") == (0, "")


@pytest.mark.parametrize("command", ["vxland check -c node.yaml", "vxlandctl --version"])
def test_started_as_a_command(hostile: Path, command: str) -> None:
    """Nor do the installed commands."""
    name, *words = command.split()
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f"{name} is not installed beside this Python")
    assert run(hostile, str(program), *words) == (0, "")


def test_nobody_starts_a_python_without() -> None:
    """Every Python that vxland and its tools start gets -P: each module starts its PYTHON."""
    lines = [
        path.read_text().splitlines()[node.lineno - 1]
        for folder in ("vxland", "tools", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    ]
    assert {line.replace(": Final", "") for line in lines} == {'PYTHON = (sys.executable, "-P")'}
