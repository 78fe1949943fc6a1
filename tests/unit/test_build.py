"""Installing vxland where its data path cannot be compiled: the interpreted gear is there, as the README promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
ONE_FAILS = """\
#!/bin/sh
case "$*" in *vxland/forwarding/pump.c*) exit 1 ;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && : >"$2"; shift; done
"""
"""A compiler that makes empty files of all modules but one."""

LOOK = "import vxland.forwarding.pump; print(vxland.forwarding.pump.__file__, vxland.forwarding.pump.COMPILED)"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what is built, without extensions; C sources that are there already save time."""
    folder = tmp_path / "source"
    shutil.copytree(ROOT / "vxland", folder / "vxland", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "docs" / "man", folder / "docs" / "man")
    for name in SOURCES:
        shutil.copy2(ROOT / name, folder)
    return folder


@pytest.mark.slow(reason="builds and installs vxland")
@pytest.mark.parametrize("lacking", ["compiler", "one module", "Cython"])
def test_installed_without(source: Path, tmp_path: Path, lacking: str) -> None:
    """`pip install` ended with the compiler's error where there was no compiler; now the package runs interpreted.

    Whole: of modules that were compiled before one failed, none is installed.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VXLAND_", "PYTHON", "CC"))}
    target, fakes = tmp_path / "target", tmp_path / "fakes"
    fakes.mkdir()
    if lacking == "Cython":
        (fakes / "Cython").mkdir()
        (fakes / "Cython" / "__init__.py").touch()  # and no Cython.Build
        env["PYTHONPATH"] = str(fakes)
    else:
        (fakes / "cc").write_text(ONE_FAILS if lacking == "one module" else "#!/bin/false\n")
        (fakes / "cc").chmod(0o755)
        env["CC"] = str(fakes / "cc")
    pip = (sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
    done = subprocess.run(
        (*pip, "--verbose", "--target", str(target), str(source)),
        env=env | {"PIP_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if lacking != "Cython":
        assert "the data path is not compiled, and vxland will run interpreted" in done.stdout + done.stderr
    assert list(target.rglob("*.so")) == []
    env["PYTHONPATH"] = str(target)
    look = subprocess.run(
        (sys.executable, "-P", "-c", LOOK), env=env, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert look.stdout == f"{target}/vxland/forwarding/pump.py False\n"


@pytest.mark.slow(reason="builds vxland")
def test_archives(source: Path, tmp_path: Path) -> None:
    """Of C, archives have the programs of the fast path alone, with their object: nobody needs clang to use them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VXLAND_", "PYTHON"))}
    env["VXLAND_PURE"] = "1"
    made = tmp_path / "made"
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    pip = ("-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made))
    for words in (("-c", build, str(made)), (*pip, str(source))):
        done = subprocess.run(
            (sys.executable, *words), env=env, cwd=source, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    with tarfile.open(sdist) as tar, zipfile.ZipFile(wheel) as archive:
        for names in ([name.partition("/")[2] for name in tar.getnames()], archive.namelist()):
            found = [name for name in names if name.endswith((".c", ".o", ".so"))]
            assert sorted(found) == ["vxland/fastpath/programs.c", "vxland/fastpath/programs.o"]
