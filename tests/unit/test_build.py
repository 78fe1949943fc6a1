"""Archives of vxland: what they contain, and their installation where the data path cannot be compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.installed import BUILD, DATA, ROOT, copy_sources

INSTALLED = {
    "configs": "share/vxland/configs",
    "deploy": "share/vxland/deploy",
    "docs/completion/bash": "share/bash-completion/completions",
    "docs/completion/fish": "share/fish/vendor_completions.d",
    "docs/completion/zsh": "share/zsh/site-functions",
    "systemd/sysctl.d": "lib/sysctl.d",
    "systemd/sysusers.d": "lib/sysusers.d",
    "systemd/user": "lib/systemd/user",
    "systemd": "lib/systemd/system",
}
"""Places below the prefix; manual pages are below share/man by section."""

COMMIT = "0123456789ab"
ONE_FAILS = """\
#!/bin/sh
case "$*" in *vxland/forwarding/pump.c*) exit 1 ;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && : >"$2"; shift; done
"""
"""A compiler that makes empty files of all modules but one."""

LOOK = "import vxland.forwarding.pump; print(vxland.forwarding.pump.__file__, vxland.forwarding.pump.COMPILED)"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what is built, without extensions."""
    folder = tmp_path / "source"
    copy_sources(folder)
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


def data_files() -> dict[str, str]:
    """Return where each file that is no module is installed below the prefix; deploy/compose needs a checkout."""
    found = {}
    for name in DATA:
        for path in (ROOT / name).rglob("*"):
            place = str(path.relative_to(ROOT))
            if path.is_dir() or place.startswith("deploy/compose/"):
                continue
            folder = next((top for top in INSTALLED if place.startswith(f"{top}/")), None)
            found[place] = (
                f"share/man/man{place[-1]}/{path.name}"
                if folder is None
                else f"{INSTALLED[folder]}{place.removeprefix(folder)}"
            )
    return found


@pytest.mark.slow(reason="builds vxland")
def test_archives(source: Path, tmp_path: Path) -> None:
    """The sdist, and the wheel that is built from it, have all files; of C, only the BPF programs.

    Both know their commit. Nobody needs clang to use the programs: their object is there too.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VXLAND_", "PYTHON"))}
    env["VXLAND_PURE"] = "1"
    made, unpacked = tmp_path / "made", tmp_path / "unpacked"

    def run(archive: str, folder: Path) -> None:
        command = (sys.executable, "-c", BUILD.format(archive), str(made))
        done = subprocess.run(command, env=env, cwd=folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    env["VXLAND_COMMIT"] = f"{COMMIT}{0:028}"  # whole, as CI has it
    run("sdist", source)
    del env["VXLAND_COMMIT"]
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        tar.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    assert set(data_files()) <= set(names)
    assert [name for name in names if name.startswith("deploy/compose")] == []
    run("wheel", tree)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        (text,) = (archive.read(name).decode() for name in inside if name == "vxland/commit")
        (helper,) = (one for one in archive.infolist() if one.filename.endswith("/vxland-cni-bridge"))
    assert text == (tree / "vxland" / "commit").read_text() == f"{COMMIT}\n"
    assert helper.external_attr >> 16 & 0o111  # pip keeps it executable
    prefix = f"{wheel.name.partition('-py3')[0]}.data/data/"
    assert {name.removeprefix(prefix) for name in inside if name.startswith(prefix)} == set(data_files().values())
    for archived in (names, inside):
        found = [name for name in archived if name.endswith((".c", ".o", ".so"))]
        assert sorted(found) == [f"vxland/fastpath/{n}.{end}" for n in ("kernel_drops", "programs") for end in "co"]
