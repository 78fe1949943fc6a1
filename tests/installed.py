"""The files of a site-packages folder with vxland, taken from this machine without registry or resolver."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ENTRY: Final = "import sys\n\nfrom vxland.__main__ import main\n\nsys.exit(main())\n"
"""The command `vxland`, after a line that names the Python."""


def files() -> Iterator[tuple[Path, Path]]:
    """Yield each file of vxland and its dependencies: its path in site-packages, and its path here."""
    for package in _packages():
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file():  # skips scripts next to the venv's Python
                yield Path(file), path
    for path in (ROOT / "vxland").rglob("*"):
        if path.is_file() and path.suffix not in {".c", ".pyc"}:
            yield path.relative_to(ROOT), path


def _packages() -> set[str]:
    """Return the distributions that vxland needs here with its extra `hardening`, with their dependencies."""
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
        except PackageNotFoundError:  # for another platform or Python
            continue
        found.add(name)
        wanted += needs
    return found
