"""Extensions older than their sources: found by content, and the tests do not run with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import setup as build

ROOT = Path(__file__).parents[2]
NEEDED = (
    *("setup.py", "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "vxland/__init__.py"),
    *sorted({str(path.relative_to(ROOT)) for name in build.COMPILED for path in build.sources(name)}),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, beside each module an "extension" that holds the digest of them."""
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in build.COMPILED:
        extension(tmp_path, name).write_bytes(b"\x7fELF..." + build.digest(name, tmp_path) + b"...")
    return tmp_path


def extension(tree: Path, name: str) -> Path:
    """Return where the extension of a module lies."""
    return tree / (name.replace(".", "/") + build.SUFFIX)


def edit(path: Path) -> None:
    """Change what a file says and leave its times alone, as a checkout or a copy may."""
    before = path.stat()
    path.write_text(path.read_text() + "# another\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_same_sources_are_current(tree: Path) -> None:
    """Times alone make nothing stale."""
    for path in tree.rglob("*.py"):
        path.touch()
    assert build.stale(tree) == []


def test_a_changed_module_is_stale(tree: Path) -> None:
    """Only the one that changed: others take C functions from its .pxd, which is as it was."""
    edit(tree / "vxland/wire/arp.py")
    assert build.stale(tree) == ["vxland.wire.arp"]


def test_a_changed_declaration_makes_its_users_stale(tree: Path) -> None:
    """Those that take from it, directly or through others, are compiled with its layout of classes."""
    edit(tree / "vxland/wire/arp.pxd")
    stale = build.stale(tree)
    assert {"vxland.wire.arp", "vxland.datapath.encap", "vxland.forwarding.pump"} <= set(stale)
    assert "vxland.wire.checksum" not in stale


def test_a_missing_extension_is_stale(tree: Path) -> None:
    """One module interpreted among compiled ones is neither gear."""
    extension(tree, "vxland.wire.arp").unlink()
    assert build.stale(tree) == ["vxland.wire.arp"]


def test_an_extension_without_its_module_is_stale(tree: Path) -> None:
    """A renamed module could still be imported by its old name."""
    extension(tree, "vxland.wire.gone").write_bytes(b"\x7fELF")
    assert build.stale(tree) == ["vxland.wire.gone"]


def test_nothing_compiled_is_the_interpreted_gear(tree: Path) -> None:
    """A package that was never compiled has no stale module."""
    for path in tree.rglob("*.so"):
        path.unlink()
    assert build.stale(tree) == []
    assert build.outdated(tree) == build.COMPILED


def test_extensions_that_lie_here_carry_the_digest_of_their_sources() -> None:
    """The linker wrote it, so that it cannot come apart from the extension."""
    assert build.stale() == []


@pytest.mark.parametrize(("pure", "status"), [("", 4), ("1", 0)])
def test_a_session_with_a_stale_extension_stops(tree: Path, pure: str, status: int) -> None:
    """The extensions of yesterday ran without a word, and the tests passed on code that nobody had any more."""
    edit(tree / "vxland/wire/arp.py")
    (tree / "tests" / "test_nothing.py").write_text("def test_nothing() -> None:\n    pass\n")
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"),
        env=os.environ | {"VXLAND_PURE": pure, "PYTHONPATH": ""},
        cwd=tree,
        check=False,
        capture_output=True,
        text=True,
    )
    line = "vxland.wire.arp: compiled of other sources than these; run `make build`"
    assert done.returncode == status, done.stdout + done.stderr
    assert (line in done.stdout + done.stderr) == (not pure)
    assert ("1 passed" in done.stdout) == bool(pure)
