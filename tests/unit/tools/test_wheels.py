"""tools/wheels.py: what it builds with, and the wheels that it refuses; and the workflow that builds the others."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from tools.deb import ARCHITECTURES, RELEASES
from tools.steps import StepError
from tools.wheels import CROSS, CROSSED, VERSIONS, build_sdist, check, crossing, fault_of, locked

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GOOD = "vxland-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl"


def wheel(folder: Path, name: str, content: dict[str, int], module: bytes = b"") -> Path:
    """Write a wheel with files of these sizes, which nothing can compress, and perhaps an extension."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file, size in content.items():
            archive.writestr(file, bytes(size))
        if module:
            archive.writestr("vxland/wire/ip.so", module)
    return folder / name


def linked(folder: Path, *options: str) -> bytes:
    """Return a small shared library, of the C compiler with these options."""
    source, made = folder / "one.c", folder / "one.so"
    source.write_text("const char *one(void) { return MESSAGE; }\n")
    message = () if any("MESSAGE" in option for option in options) else ('-DMESSAGE="one"',)
    subprocess.run(("gcc", "-shared", "-fPIC", *message, *options, "-o", made, source), check=True)
    return made.read_bytes()


@pytest.mark.parametrize("name", [GOOD, GOOD.replace("manylinux_2_17", "musllinux_1_2")])
def test_a_good_wheel(tmp_path: Path, name: str) -> None:
    """C sources of the fast path's programs, of which the object is made, are no sources of Cython."""
    content = {"vxland/fastpath/programs.c": 10, "vxland/more": (3 << 20) - 50_000}
    check(wheel(tmp_path, name, content, linked(tmp_path, "-s")))


@pytest.mark.parametrize("musl", [False, True])
def test_this_python_builds_for_another(tmp_path: Path, musl: bool) -> None:
    """The names of extensions and wheel are the other Python's; those for musl name its library as Alpine does."""
    cross = next(cross for cross in CROSS.values() if cross.platform == sysconfig.get_platform())
    libc = "musl" if musl else "gnu"
    settings = f"build_time_vars = {{'SOABI': 'cpython-399-{cross.triplet}', 'SHLIB_SUFFIX': '.so'}}\n"
    root, folder = tmp_path / "root", tmp_path / "folder"
    for name in ("usr/lib/python3.99", f"lib/{cross.triplet.replace('gnu', 'musl')}"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/python3.99" / f"_sysconfigdata__{cross.triplet}.py").write_text(settings)
    (root / f"lib/{cross.triplet.replace('gnu', 'musl')}" / "libc.so").write_bytes(linked(tmp_path, "-Done=getenv"))
    env = crossing(cross, root, "3.99", folder, musl=musl)
    code = "import sysconfig as s; print(s.get_config_var('SOABI'), s.get_config_var('py_version_nodot'))"
    asked = subprocess.run((sys.executable, "-c", code), env=env, check=True, capture_output=True, text=True)
    assert asked.stdout.split() == [f"cpython-399-{cross.triplet.replace('gnu', libc)}", "399"]
    source, made = tmp_path / "two.c", tmp_path / "two.so"
    source.write_text('char *getenv(const char *); char *two(void) { return getenv("TWO"); }\n')
    subprocess.run((*env["LDSHARED"].split(), "-fPIC", source, "-o", made), check=True)
    with made.open("rb") as file:
        (dynamic,) = (section for section in ELFFile(file).iter_sections() if isinstance(section, DynamicSection))
        needed = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]  # set by name
    assert needed == [f"libc.musl-{cross.musl}.so.1" if musl else "libc.so.6"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "has .symtab: strip it"),
        (("-s", "-Wl,-rpath,/home/builder/lib"), "looks for libraries in /home/builder/lib: link it without that"),
        (("-s", "-Wl,--disable-new-dtags,-rpath,/x"), "looks for libraries in /x: link it without that"),
        (("-s", '-DMESSAGE="/tmp/made/tupleobject.h"'), "has the builder's path /tmp/made/tupleobject.h"),
    ],
)
def test_extensions_with_something_of_the_builder(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """A wheel of a pyenv Python looked in the builder's home for libraries; assertions of an ARM one named headers."""
    module = linked(tmp_path, *options)
    assert fault_of(module) == said
    with pytest.raises(StepError, match=re.escape(f"{GOOD}: vxland/wire/ip.so {said}")):
        check(wheel(tmp_path, GOOD, {}, module))


def test_the_sdist_follows_no_link(tmp_path: Path) -> None:
    """The build of an sdist walked without end through a Debian in build/ that had /proc mounted."""
    tree = tmp_path / "tree"
    (tree / "build").mkdir(parents=True)
    (tree / "build" / "loop").symlink_to("/proc")
    (tree / ".gitignore").write_text("build/\n")
    (tree / "a.py").write_text("")
    (tree / "setup.py").write_text("from setuptools import setup\nsetup(name='a', version='1', py_modules=['a'])\n")
    subprocess.run(("git", "init", "--quiet", tree), check=True)
    made = tmp_path / "made"
    made.mkdir()
    with tarfile.open(build_sdist(tree, made)) as tar:
        assert {name.partition("/")[2] for name in tar.getnames()} >= {"a.py", "setup.py"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (GOOD, {"vxland/wire/ip.so": 3 << 20}, "3145728 at most"),
        (GOOD, {"vxland/wire/ip.c": 10}, "has C sources that Cython made, such as vxland/wire/ip.c"),
        ("vxland-0.1.0-cp311-cp311-linux_x86_64.whl", {}, "is for no manylinux or musllinux"),
    ],
)
def test_wheels_that_are_no_release(tmp_path: Path, name: str, content: dict[str, int], said: str) -> None:
    """Each was 13.9 MB, with symbols, and for the machine alone that had built it."""
    with pytest.raises(StepError, match=re.escape(said)):
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


def test_the_workflow_has_every_package() -> None:
    """The Debian packages of each release and architecture that `make deb` knows; the index gets none of them."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    matrix = jobs["deb"]["strategy"]["matrix"]
    assert matrix["python"] == [f"cp3{minor}" for minor in RELEASES]
    assert matrix["arch"] == list(ARCHITECTURES)
    patterns = [
        step["with"]["pattern"]
        for name in ("publish", "attach")
        for step in jobs[name]["steps"]
        if "download-artifact" in step.get("uses", "")
    ]
    assert patterns == ["{sdist,wheels-*}", "{deb-*,chart}"]


@pytest.mark.parametrize(
    ("words", "said"), [(("mips", "3.11"), "mips: no arch"), (("arm64", "3.12"), "3.12: no Debian")]
)
def test_foreign_refuses_what_it_does_not_know(words: tuple[str, ...], said: str) -> None:
    """An architecture or a Python without a Debian is a usage error that names those which there are."""
    done = subprocess.run((ROOT / "tools" / "foreign.sh", *words), capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert set(CROSSED) <= set(re.findall(r"3\.\d+", done.stderr)) or "arm64, armhf" in done.stderr
