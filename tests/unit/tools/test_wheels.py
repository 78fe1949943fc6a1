"""tools/wheels.py: what it builds with, and the wheels that it refuses; and the workflow that builds the others."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tools.wheels import CROSS, CROSSED, VERSIONS, BuildError, check, locked

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GOOD = "vxland-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"


def wheel(folder: Path, name: str, content: dict[str, int]) -> Path:
    """Write a wheel with files of these sizes, which nothing can compress."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file, size in content.items():
            archive.writestr(file, bytes(size))
    return folder / name


def test_a_good_wheel(tmp_path: Path) -> None:
    """C sources of the fast path's programs, of which the object is made, are no sources of Cython."""
    check(wheel(tmp_path, GOOD, {"vxland/fastpath/programs.c": 10, "vxland/wire/ip.so": (3 << 20) - 1000}))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (GOOD, {"vxland/wire/ip.so": 3 << 20}, "3145728 at most"),
        (GOOD, {"vxland/wire/ip.c": 10}, "has C sources that Cython made, such as vxland/wire/ip.c"),
        ("vxland-0.1.0-cp311-cp311-linux_x86_64.whl", {}, "is not for manylinux"),
    ],
)
def test_wheels_that_are_no_release(tmp_path: Path, name: str, content: dict[str, int], said: str) -> None:
    """Each was 13.9 MB, with symbols, and for the machine alone that had built it."""
    with pytest.raises(BuildError, match=re.escape(said)):
        check(wheel(tmp_path, name, content))


def test_what_builds_is_locked() -> None:
    """Setuptools and Cython come with the hashes of the lock, and nothing else does."""
    lines = locked(ROOT).splitlines()
    assert [line.partition("==")[0] for line in lines if line[:1].isalpha()] == ["cython", "setuptools"]
    assert sum("--hash=sha256:" in line for line in lines) > 10


def test_versions_are_those_of_the_project() -> None:
    """The tool, the workflow and `requires-python` name the same Pythons."""
    assert PROJECT["project"]["requires-python"] == f">={VERSIONS[0]},<3.{int(VERSIONS[-1][2:]) + 1}"
    assert PROJECT["tool"]["cibuildwheel"]["build"] == [f"cp{version.replace('.', '')}-*" for version in VERSIONS]


def test_the_workflow_has_every_architecture() -> None:
    """Those that `make wheels` builds, and no wheel above the size that it accepts."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    archs = {entry["arch"] for entry in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert archs == {"x86_64", *(cross.platform.removeprefix("linux-") for cross in CROSS.values())}
    assert any("-size +3M" in step.get("run", "") for step in jobs["wheels"]["steps"])


@pytest.mark.parametrize(
    ("words", "said"), [(("mips", "3.11"), "mips: no arch"), (("arm64", "3.12"), "3.12: no stable")]
)
def test_foreign_refuses_what_it_does_not_know(words: tuple[str, ...], said: str) -> None:
    """An architecture or a Python without a Debian is a usage error that names those which there are."""
    done = subprocess.run((ROOT / "tools" / "foreign.sh", *words), capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert set(CROSSED) <= set(re.findall(r"3\.\d+", done.stderr)) or "arm64, armhf" in done.stderr
