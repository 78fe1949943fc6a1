"""vxland and its dependencies as installed elsewhere, from this machine's files, without registry or resolver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ENTRY: Final = "import sys\n\nfrom vxland.__main__ import main\n\nsys.exit(main())\n"
"""The command `vxland`, after a line that names the Python."""


SOURCES: Final = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
DATA: Final = ("configs", "deploy", "docs/completion", "docs/man", "systemd")
"""Files and folders that an sdist is made of, beside the package."""

BUILD: Final = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def files() -> Iterator[tuple[Path, Path]]:
    """Yield each file of vxland and its dependencies: its path in site-packages, and its path here."""
    yield from dependencies("hardening")
    for path in (ROOT / "vxland").rglob("*"):
        if path.is_file() and path.suffix not in {".c", ".pyc"}:
            yield path.relative_to(ROOT), path


def dependencies(extra: str) -> Iterator[tuple[Path, Path]]:
    """Yield each file of the packages that vxland declares, as files() does."""
    for package in _packages(extra):
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file():  # skips scripts next to the venv's Python
                yield Path(file), path


def copy_sources(folder: Path) -> None:
    """Copy what is built, without extensions; C sources that are there already save time."""
    shutil.copytree(ROOT / "vxland", folder / "vxland", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in DATA:
        shutil.copytree(ROOT / name, folder / name)
    for name in SOURCES:
        shutil.copy2(ROOT / name, folder)


def installed_wheel(folder: Path) -> Path:
    """Build the compiled wheel, install it into an environment with what it declares and the extra `lab`.

    Return the environment. The extensions of this tree, which are current, spare the compiler's minutes.
    """
    source, made, venv = folder / "source", folder / "made", folder / "venv"
    copy_sources(source)
    for path in source.rglob("*.c"):
        path.touch()  # newer than the modules they were made of, whatever a checkout did to these
    compiled = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for path in (ROOT / "vxland").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        target = compiled / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VXLAND_", "PYTHON"))}
    pip = (sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-index", "--no-deps")
    for command in (
        (sys.executable, "-c", BUILD.format("wheel"), str(made)),
        (sys.executable, "-m", "venv", "--without-pip", str(venv)),
    ):
        subprocess.run(command, cwd=source, env=env, check=True, stdout=subprocess.DEVNULL)
    (site,) = venv.glob("lib/python*/site-packages")
    for place, path in dependencies("lab"):
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, site / place)
    (wheel,) = made.glob("*.whl")
    subprocess.run((*pip, str(wheel)), cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(source)
    return venv


def _packages(extra: str) -> set[str]:
    """Return the distributions that vxland needs here with an extra, with their dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
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
