#!/usr/bin/env python3
"""Build the sdist, and from it the wheels that this machine can: `make wheels`, into dist/.

1. The sdist of the checkout. Every wheel is built from it, so none has what the sdist lacks.
2. A wheel for each Python 3.11 to 3.14 here that has its headers: in PATH, in /usr/bin, and those of pyenv.
3. For each --arch, wheels for the Pythons that Debian has: 3.11, 3.13 and, in its testing suite, 3.14. The headers are
   Debian's for that architecture (tools/foreign.sh), the compiler is this machine's or a cross compiler.
4. With --musl the same once more with musl's headers and library instead of glibc's.

auditwheel gives each wheel the oldest manylinux or musllinux tag whose symbols it uses. A wheel that is interpreted,
larger than 3 MB, or has neither tag is refused, as is an extension with symbols or paths of this machine. Setuptools
and Cython are those of requirements-image.lock, with their hashes. WHEELS="--python 3.11" of `make wheels` gives
options. Exit status: 0 done, 1 a build failed, 2 usage error.
"""

# ruff: noqa: S603, T201  (starts Pythons, and reports to a terminal)

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from tools.steps import PYTHON, StepError, finish, run

TOOLS: Final = Path(__file__).parent
VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
CROSSED: Final = ("3.11", "3.13", "3.14")
"""The versions that a Debian has, for any architecture."""

PLACES: Final = (*map(Path, os.get_exec_path()), Path("/usr/bin"))
MOST_BYTES: Final = 3 << 20
BUILD_PATH: Final = re.compile(rb"/(?:root|home|tmp|build|builds|work|opt|usr/src)/[\w./-]+")
LOCK: Final = "requirements-image.lock"
HOOK: Final = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
HEADERS: Final = (
    "import os, sys, sysconfig; assert os.path.exists(sysconfig.get_path('include') + '/Python.h');"
    "print('%d.%d' % sys.version_info[:2])"
)


@dataclass(frozen=True, slots=True)
class Cross:
    """One architecture of Debian."""

    triplet: str  # of compiler, headers and modules
    platform: str  # as Python names it
    musl: str  # in the name of Alpine's libc


CROSS: Final = {
    "amd64": Cross("x86_64-linux-gnu", "linux-x86_64", "x86_64"),
    "arm64": Cross("aarch64-linux-gnu", "linux-aarch64", "aarch64"),
    "armhf": Cross("arm-linux-gnueabihf", "linux-armv7l", "armv7"),
}


def pythons() -> dict[str, Path]:
    """Return one Python of each version that extensions can be built for."""
    found: dict[str, Path] = {}
    for version in VERSIONS:
        candidates = [Path(PYTHON[0]).resolve(), *(place / f"python{version}" for place in PLACES)]
        candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for path in filter(Path.is_file, candidates):
            asked = subprocess.run((path, "-P", "-c", HEADERS), capture_output=True, text=True, check=False)
            if asked.stdout.strip() == version:
                found[version] = path
                break
    return found


def locked(tree: Path) -> str:
    """Return the lines of the lock for what builds: setuptools and Cython with their hashes."""
    wanted = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    names = {re.split(r"[^\w-]", one, maxsplit=1)[0] for one in wanted}
    blocks = re.split(r"^(?=\S)", (tree / LOCK).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "".join(block for block in blocks if block.partition("==")[0] in names)


def made_venv(python: Path, folder: Path, tree: Path) -> Path:
    """Return the Python of an environment with the build's packages: for this Python the one that runs this."""
    if python == Path(PYTHON[0]).resolve():
        return Path(PYTHON[0])
    run(f"make an environment of {python}", python, "-m", "venv", "--without-pip", str(folder))
    lock = folder / "requirements.txt"
    lock.write_text(locked(tree), encoding="utf-8")
    inside = folder / "bin" / "python"
    pip = (*PYTHON, "-m", "pip", "--python", str(inside), "install", "--quiet")
    run("install setuptools and Cython", *pip, "--require-hashes", "--no-deps", "-r", str(lock))
    return inside


def crossing(cross: Cross, root: Path, version: str, folder: Path, *, musl: bool) -> dict[str, str]:
    """Return the environment in which this Python builds for another: with that one's settings, for either libc."""
    stdlib, include = root / "usr" / "lib" / f"python{version}", root / "usr" / "include"
    name = f"_sysconfigdata__{cross.triplet}"
    settings = (stdlib / f"{name}.py").read_text(encoding="utf-8")
    compiler = f"{cross.triplet}-gcc"
    headers, libraries = f"-I{include}/python{version} -idirafter {include}", ""
    folder.mkdir(parents=True)
    if musl:
        settings = settings.replace("-linux-gnu", "-linux-musl")  # in the names of extensions
        triplet = cross.triplet.replace("-linux-gnu", "-linux-musl")
        own = run("find the compiler's headers", compiler, "-print-file-name=include")
        headers = f"-nostdinc -isystem {include}/{triplet} -isystem {own} {headers}"
        libc = shutil.copy(root / "lib" / triplet / "libc.so", folder)
        run("name the libc", "patchelf", "--set-soname", f"libc.musl-{cross.musl}.so.1", libc)  # as Alpine does
        libraries = f"-L{folder}"  # is searched before the compiler's folders, which have glibc
    settings += f"build_time_vars['py_version_nodot'] = '{version.replace('.', '')}'\n"  # in the wheel's tag
    (folder / f"{name}.py").write_text(settings, encoding="utf-8")
    return {
        "PYTHONPATH": str(folder),
        "_PYTHON_SYSCONFIGDATA_NAME": name,
        "_PYTHON_HOST_PLATFORM": cross.platform,
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared {libraries}",
        "CFLAGS": f"-DNDEBUG -fwrapv {headers}",
    }


def build_sdist(tree: Path, made: Path) -> Path:
    """Build the sdist of a checkout with this environment's setuptools.

    In a copy of what git does not ignore: setuptools follows every link below its folder, and build/ may have whole
    Debian systems.
    """
    copy = made / "tree"
    for name in run("list the files", "git", "ls-files", "-z", "-co", "--exclude-standard", cwd=tree).split("\0"):
        if name and (path := tree / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy / name, follow_symlinks=False)
    (copy / ".git").symlink_to(tree / ".git")  # for the commit
    env = {"GIT_OPTIONAL_LOCKS": "0"}  # which leaves the index as it is for the checkout
    run("build the sdist", *PYTHON, "-c", HOOK.format("sdist"), made, cwd=copy, env=env)
    (sdist,) = made.glob("*.tar.gz")
    return sdist


def build_wheel(python: Path, source: Path, dist: Path, env: Mapping[str, str]) -> Path:
    """Build a wheel of the unpacked sdist, have auditwheel tag it, and return it in `dist`."""
    shutil.rmtree(source / "build", ignore_errors=True)  # of another Python; the C sources beside the modules serve all
    with tempfile.TemporaryDirectory() as made:
        run("build the wheel", python, "-c", HOOK.format("wheel"), made, cwd=source, env=env)
        (wheel,) = Path(made).glob("*.whl")
        if wheel.name.endswith("-any.whl"):
            raise StepError(f"{wheel.name} has no compiled data path: install a C compiler and Python's headers")
        run("tag the wheel", *PYTHON, "-m", "auditwheel", "repair", "--wheel-dir", f"{made}/tagged", wheel)
        (tagged,) = Path(made, "tagged").glob("*.whl")
        check(tagged)
        return Path(shutil.copy(tagged, dist))


def check(wheel: Path) -> None:
    """Raise StepError for a wheel that is no release."""
    if not re.search("-(many|musl)linux", wheel.name):
        raise StepError(f"{wheel.name} is for no manylinux or musllinux: its libraries are those of this machine alone")
    if (size := wheel.stat().st_size) > MOST_BYTES:
        raise StepError(f"{wheel.name} has {size} bytes: {MOST_BYTES} at most; look for symbols or C sources in it")
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        if odd := [name for name in inside if name.endswith(".c") and not name.startswith("vxland/fastpath/")]:
            raise StepError(f"{wheel.name} has C sources that Cython made, such as {odd[0]}")
        for name in inside:
            if name.endswith(".so") and (fault := fault_of(archive.read(name))):
                raise StepError(f"{wheel.name}: {name} {fault}")


def fault_of(module: bytes) -> str:
    """Return what an extension has that serves only the machine that built it; "" if nothing."""
    elf = ELFFile(io.BytesIO(module))
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            return f"has {section.name}: strip it"
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag in {"DT_RPATH", "DT_RUNPATH"}:
                    return f"looks for libraries in {getattr(tag, tag.entry.d_tag[3:].lower())}: link it without that"
    if found := BUILD_PATH.search(module):
        return f"has the builder's path {found[0].decode()}"
    return ""


def foreign(arch: str, version: str) -> Path:
    """Return the root of a Debian of another architecture."""
    return Path(run(f"unpack Debian for {arch}", TOOLS / "foreign.sh", arch, version))


def environments(
    tree: Path, scratch: Path, wanted: list[str], archs: list[str], *, native: bool, musl: bool
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield for each wheel the Python that builds it, and variables for it."""
    here = {version: python for version, python in pythons().items() if version in wanted} if native else {}
    if native and (missing := [version for version in wanted if version not in here]):
        print(f"not here with its headers: Python {', '.join(missing)}", flush=True)
    for version in wanted:
        if version in here:
            # Without the library path that a Python of pyenv has in its own command.
            link = {"LDSHARED": f"{os.environ.get('CC', 'gcc')} -shared"}
            yield made_venv(here[version], scratch / version, tree), link
        for arch in archs if version in CROSSED else []:
            cross, root = CROSS[arch], foreign(arch, version)
            if version not in here or cross.platform != sysconfig.get_platform():
                yield Path(PYTHON[0]), crossing(cross, root, version, scratch / f"{version}-{arch}", musl=False)
            if musl:
                yield Path(PYTHON[0]), crossing(cross, root, version, scratch / f"{version}-{arch}-musl", musl=True)


def build(tree: Path, dist: Path, wanted: list[str], archs: list[str], *, native: bool, musl: bool) -> None:
    """Build the sdist and each wheel into `dist`, with a line for each."""
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        sdist = Path(shutil.copy(build_sdist(tree, Path(scratch)), dist))
        print(f"built {sdist.name}", flush=True)
        with tarfile.open(sdist) as tar:
            tar.extractall(Path(scratch, "source"), filter="data")
        (source,) = Path(scratch, "source").iterdir()
        for python, env in environments(tree, Path(scratch), wanted, archs, native=native, musl=musl):
            wheel = build_wheel(python, source, dist, env)
            print(f"built {wheel.name}, {wheel.stat().st_size / 2**20:.1f} MB", flush=True)


def main() -> int:
    """Build what the options name."""
    parser = argparse.ArgumentParser(description="Build the sdist and the wheels that this machine can.")
    parser.add_argument("--python", action="append", choices=VERSIONS, help="for this Python alone; may be repeated")
    parser.add_argument("--arch", action="append", choices=CROSS, default=[], help="also for this; may be repeated")
    parser.add_argument("--musl", action="store_true", help="for each --arch also with musl instead of glibc")
    parser.add_argument("--no-native", action="store_true", help="no wheels with the Pythons of this machine")
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="the folder of the archives [dist]")
    given = parser.parse_args()
    wanted = given.python or list(VERSIONS)

    return finish(
        "wheels", lambda: build(Path.cwd(), given.dist, wanted, given.arch, native=not given.no_native, musl=given.musl)
    )


if __name__ == "__main__":
    sys.exit(main())
