#!/usr/bin/env python3
"""Build the Debian package of the checkout: `make deb`, into dist/.

1. The wheel for the Python of a Debian release, by tools/wheels.py, or the one that --wheel names.
2. The wheels that it needs, from the registry, with the hashes of requirements-image.lock.
3. All of them unpacked in /usr/lib/vxland, an environment of Debian's Python; what the wheel has for /usr in its place;
   /etc/vxland/vxland.yaml and the scripts of packaging/debian.

No program of the release runs, so one machine builds for all: --python 3.11 is Debian 12, 3.13 is Debian 13. The same
commit and the same wheel give the same bytes. --update 2 gives the next version of the same release.
Exit status: 0 done, 1 a step failed, 2 usage error.
"""

# ruff: noqa: T201  (reports to a terminal)

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from tools.steps import PYTHON, StepError, finish, run

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "packaging" / "debian"
LOCK: Final = ROOT / "requirements-image.lock"
HOME: Final = Path("usr/lib/vxland")
MAINTAINER: Final = "vxland maintainers <vxland@users.noreply.github.com>"
WHEEL: Final = re.compile(
    r"vxland-(?P<version>[\w.]+)-cp3(?P<minor>\d+)-cp3\d+-[\w.]+_(?P<machine>x86_64|aarch64)\.whl"
)
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
PLATFORMS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")
NEVER_RUN: Final = ("setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth", "pyximport")
CYTHON: Final = {"__init__.py", "Shadow.py"}  # what the interpreted gear imports of its 14 MB
NO_USE: Final = {".c", ".h", ".pyi", ".pyx", ".a"}
OF_INSTALLER: Final = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}

CONTROL: Final = """\
Package: vxland
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {depends}
Recommends: libbpf1, nftables | iptables
Section: net
Priority: optional
Description: userspace VXLAN data plane for flannel clusters
 vxland takes the place of the kernel's vxlan device in a flannel network: on
 machines whose kernel has none, and where you want to see why a packet was
 dropped. Nodes with vxland and nodes with flanneld form one cluster.
 .
 The package contains the Python packages that vxland needs, because Debian's
 are older. It is for one release of Debian, whose Python it uses.
"""
DEPENDS: Final = ("libc6 (>= 2.34)", "libgcc-s1", "procps", "systemd (>= 252)", "init-system-helpers (>= 1.54)")
CHANGES: Final = """\
vxland ({version}) {codename}; urgency=medium

  * CHANGELOG.md.gz describes this version.

 -- {maintainer}  {date}
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian, by the minor version of its Python."""

    number: int
    codename: str


RELEASES: Final = {11: Release(12, "bookworm"), 13: Release(13, "trixie")}


class Package:
    """The package of one wheel, made in the folder `tree`."""

    def __init__(self, wheel: Path, update: int, tree: Path) -> None:
        found = WHEEL.fullmatch(wheel.name)
        if found is None or int(found["minor"]) not in RELEASES:
            known = " or ".join(f"cp3{minor}" for minor in RELEASES)
            raise StepError(f"{wheel.name}: give a wheel of vxland for {known}, and for x86_64 or aarch64")
        self.minor = int(found["minor"])
        self.machine = found["machine"]
        self.release = RELEASES[self.minor]
        self.version = f"{found['version']}+deb{self.release.number}u{update}"
        self.architecture = ARCHITECTURES[self.machine]
        self._wheel = wheel
        self._tree = tree
        self._site = tree / HOME / "lib" / f"python3.{self.minor}" / "site-packages"
        self._epoch = int(run("read the time of the commit", "git", "log", "-1", "--format=%ct", cwd=ROOT))

    def build(self, dist: Path) -> Path:
        """Make the package in `dist` and return it."""
        self._environment()
        self._system_files()
        self._control()
        dist.mkdir(parents=True, exist_ok=True)
        made = dist / f"vxland_{self.version}_{self.architecture}.deb"
        run(
            "pack it",
            *("dpkg-deb", "--root-owner-group", "-Zxz", "--build", self._tree, made),
            env={"SOURCE_DATE_EPOCH": str(self._epoch)},
        )
        return made

    def _environment(self) -> None:
        """Fill /usr/lib/vxland."""
        self._site.mkdir(parents=True)
        home = self._tree / HOME
        (home / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = 3.{self.minor}\n")
        (home / "bin").mkdir()
        (home / "bin" / "python3").symlink_to(f"../../../bin/python3.{self.minor}")
        with tempfile.TemporaryDirectory() as folder:
            self._download(folder)
            for wheel in (*sorted(Path(folder).iterdir()), self._wheel):
                unpack(wheel, self._site, self._tree / "usr")
        for name in NEVER_RUN:
            shutil.rmtree(self._site / name, ignore_errors=True)
            (self._site / name).unlink(missing_ok=True)
        for path in sorted(self._site.rglob("*"), reverse=True):
            place = path.relative_to(self._site).parts
            unused = path.suffix in NO_USE and place[:2] != ("vxland", "fastpath")
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif unused or path.name in OF_INSTALLER or (place[0] == "Cython" and path.name not in CYTHON):
                path.unlink()
        for name, module in (("vxland", "vxland.__main__"), ("vxlandctl", "vxland.ctl.cli")):
            command = home / "bin" / name
            command.write_text(f"#!/{HOME}/bin/python3\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
            command.chmod(0o755)
        modules = sorted(self._site.rglob("*.so"))
        run("strip the modules", f"{self.machine}-linux-gnu-strip", "--strip-unneeded", *modules)
        run("remove the builder's library paths", "patchelf", "--remove-rpath", *modules)

    def _download(self, folder: str) -> None:
        """Download the wheels of the lock for the release's Python."""
        pip = (*PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        target = ("--only-binary", ":all:", "--implementation", "cp", "--python-version", f"3.{self.minor}")
        platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{self.machine}")]
        run("download the dependencies", *pip, *target, *platforms, "--dest", folder, "-r", LOCK)

    def _system_files(self) -> None:
        """Put commands, settings and documentation where Debian has them."""
        usr, etc = self._tree / "usr", self._tree / "etc" / "vxland"
        (usr / "bin").mkdir()
        for name in ("vxland", "vxlandctl"):
            (usr / "bin" / name).symlink_to(f"../lib/vxland/bin/{name}")
        etc.mkdir(parents=True)
        shutil.copy(SOURCE / "vxland.yaml", etc)
        for page in (usr / "share" / "man").glob("*/*"):
            compress(page.read_bytes(), page.with_name(f"{page.name}.gz"))
            page.unlink()
        zsh = usr / "share" / "zsh"
        (zsh / "site-functions").rename(zsh / "vendor-completions")
        doc = usr / "share" / "doc" / "vxland"
        doc.mkdir(parents=True)
        shutil.copy(SOURCE / "copyright", doc)
        compress((ROOT / "CHANGELOG.md").read_bytes(), doc / "CHANGELOG.md.gz")
        changes = CHANGES.format(
            version=self.version,
            codename=self.release.codename,
            maintainer=MAINTAINER,
            date=format_datetime(datetime.fromtimestamp(self._epoch, UTC)),
        )
        compress(changes.encode(), doc / "changelog.gz")
        overrides = usr / "share" / "lintian" / "overrides"
        overrides.mkdir(parents=True)
        shutil.copy(SOURCE / "lintian-overrides", overrides / "vxland")

    def _control(self) -> None:
        """Write what dpkg reads."""
        files = sorted(path for path in self._tree.rglob("*") if path.is_file() and not path.is_symlink())
        control = self._tree / "DEBIAN"
        control.mkdir()
        unchanged = (path for path in files if "etc" not in path.relative_to(self._tree).parts[:1])
        sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(self._tree)}\n" for path in unchanged)  # noqa: S324  (dpkg's own, against damage)
        (control / "md5sums").write_text("".join(sums))  # of conffiles dpkg keeps its own
        (control / "conffiles").write_text("/etc/vxland/vxland.yaml\n")
        for name in ("postinst", "prerm", "postrm"):
            shutil.copy(SOURCE / name, control)
            (control / name).chmod(0o755)
        (control / "control").write_text(
            CONTROL.format(
                version=self.version,
                architecture=self.architecture,
                maintainer=MAINTAINER,
                size=sum(-(-path.stat().st_size // 1024) for path in files),
                depends=", ".join((f"python3 (>= 3.{self.minor})", f"python3 (<< 3.{self.minor + 1})", *DEPENDS)),
            )
        )


def unpack(wheel: Path, site: Path, usr: Path) -> None:
    """Unpack a wheel: a zip file of what site-packages gets, with a folder `data` for /usr."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            folder, data, place = item.filename.partition(".data/")
            if item.is_dir() or (data and not place.startswith("data/")):  # scripts of others
                continue
            target = usr / place.removeprefix("data/") if data and "/" not in folder else site / item.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(item))
            if target.parts[-2:-1] == ("bin",) and target.is_relative_to(usr / "share"):
                target.chmod(0o755)


def compress(text: bytes, path: Path) -> None:
    """Write `text` as gzip does with -9n."""
    path.write_bytes(gzip.compress(text, 9, mtime=0))


def built_wheel(python: str, folder: Path) -> Path:
    """Return a new wheel of the checkout."""
    steps = (*PYTHON, "-m", "tools.wheels", "--python", python, "--dist", folder)
    run("build the wheel", *steps, env={"PYTHONPATH": str(ROOT)})
    found = list(folder.glob("*.whl"))
    if not found:
        raise StepError(f"Python {python} is not here with its headers: build on that Debian, or give --wheel")
    return found[0]


def build(wheel: Path | None, python: str, update: int, dist: Path) -> None:
    """Make the package of a wheel, or of a new one for this Python, and report it."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir(0o755)
        package = Package(wheel or built_wheel(python, Path(scratch, "dist")), update, tree)
        made = package.build(dist)
        print(f"built {made.name}, {made.stat().st_size / 2**20:.1f} MB, for Debian {package.release.number}")


def main() -> int:
    """Build what the options name."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [f"3.{minor}" for minor in RELEASES]
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--python", choices=pythons, help=f"the release's, by default this one's, {here}")
    parser.add_argument("--wheel", type=Path, help="a wheel that is there already, for its Python and architecture")
    parser.add_argument("--update", type=int, default=1, help="the last number of the package's version [1]")
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="the folder of the package [dist]")
    given = parser.parse_args()
    os.umask(0o022)
    python = given.python or here
    if given.wheel is None and python not in pythons:
        parser.error(f"Python {python} is in no release of Debian: give --python {' or '.join(pythons)}")
    return finish("deb", lambda: build(given.wheel, python, given.update, given.dist.resolve()))


if __name__ == "__main__":
    sys.exit(main())
