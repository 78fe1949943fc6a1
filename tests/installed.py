"""What a site-packages folder with vxland holds, taken from this machine: no registry, no resolver."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ENTRY: Final = "import sys\n\nfrom vxland.__main__ import main\n\nsys.exit(main())\n"
"""The command `vxland`, behind a line that names the Python."""


def files() -> Iterator[tuple[Path, Path]]:
    """Each file of vxland and of what it depends on: its place in site-packages, and where it is here."""
    for package in _packages():
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file():  # a script beside the venv's Python is left out
                yield Path(file), path
    for path in (ROOT / "vxland").rglob("*"):
        if path.is_file() and path.suffix not in {".c", ".pyc"}:
            yield path.relative_to(ROOT), path


def _packages() -> set[str]:
    """The distributions that vxland needs here with its extra `hardening`, and those that they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hardening"]]
    while wanted:
        requirement = wanted.pop()
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform or Python
            continue
        found.add(name)
        wanted += needs
    return found
