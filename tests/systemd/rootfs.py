"""The root file system of the nodes: a small Debian with systemd, made once, and vxland with its units in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.installed import ENTRY, ROOT, files

SUITES: Final = {(3, 11): "bookworm", (3, 13): "trixie"}
"""The Debian suite whose Python can load the modules compiled here."""

_PACKAGES: Final = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "procps",
    "python3",
    "iproute2",
    "nftables",
    "iptables",
    "libbpf1",
    "libpam-systemd",
    "iputils-ping",
)
_BY_THE_PAGE: Final = ("python3-venv",)
"""Packages that a page has the reader install; nodes have no network, so their archives are here already."""

_NOT_WANTED: Final = ("systemd-networkd-wait-online.service", "systemd-firstboot.service")
_HOME: Final = Path("opt/vxland")


def prepared(scratch: Path) -> Path:
    """Return a root file system with the current vxland; debootstrap takes a minute, the first time."""
    version = sys.version_info[:2]
    if version not in SUITES:
        known = " or ".join(f"{major}.{minor}" for major, minor in SUITES)
        raise RuntimeError(f"Python {version[0]}.{version[1]} is in no Debian: make the venv with {known}")
    root = bare(scratch, SUITES[version])
    _install(root)
    return root


def bare(scratch: Path, suite: str) -> Path:
    """Return the root file system of a suite. It may have an earlier run's vxland in /opt."""
    root = scratch / suite
    stamp = root / ".packages"
    if not stamp.exists() or stamp.read_text() != " ".join((*_PACKAGES, *_BY_THE_PAGE)):
        _bootstrap(root, suite)
    return root


def _bootstrap(root: Path, suite: str) -> None:
    """Make it under another name and rename it when complete."""
    print(f"debootstrap {suite}", flush=True)  # noqa: T201  (otherwise a minute without output)
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".log").open("wb") as log:
        # A mount namespace of its own: debootstrap has left /proc mounted.
        subprocess.run(
            [
                "unshare",
                "--mount",
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(_PACKAGES)}",
                suite,
                part,
                *_mirror(suite),
            ],
            stdout=log,
            stderr=log,
            check=True,
        )
        for command in (
            ("systemctl", "mask", *_NOT_WANTED),
            ("apt-get", "update"),
            ("apt-get", "install", "--yes", "--download-only", *_BY_THE_PAGE),
        ):
            subprocess.run(["chroot", part, *command], stdout=log, stderr=log, check=True)
    (part / "etc" / "machine-id").write_text("")  # each node makes its own
    (part / ".packages").write_text(" ".join((*_PACKAGES, *_BY_THE_PAGE)))
    shutil.rmtree(root, ignore_errors=True)
    part.rename(root)


def _mirror(suite: str) -> list[str]:
    """Return the mirror of this machine's own packages; debootstrap has a default."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [uri for name, _, uri in (line.partition(" ") for line in listed.splitlines()) if name == suite][:1]


def _install(root: Path) -> None:
    """Install vxland into a venv in /opt, its commands on the PATH, and units and user where packages put theirs."""
    home = root / _HOME
    shutil.rmtree(home, ignore_errors=True)
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for place, path in files():
        target = site / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (home / "bin").mkdir()
    (home / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (home / "bin" / "python").symlink_to("/usr/bin/python3")
    for name, entry in (("vxland", ENTRY), ("vxlandctl", ENTRY.replace("vxland.__main__", "vxland.ctl.cli"))):
        command = home / "bin" / name
        command.write_text(f"#!/{_HOME}/bin/python\n{entry}")
        command.chmod(0o755)
        link = root / "usr" / "local" / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"/{_HOME}/bin/{name}")
    subprocess.run(["chroot", root, f"/{_HOME}/bin/python", "-m", "compileall", "-q", f"/{_HOME}/lib"], check=False)
    lib = root / "usr" / "lib"
    for unit in (ROOT / "systemd").glob("*.service"):
        shutil.copy(unit, lib / "systemd" / "system" / unit.name)
    for sysctl in (ROOT / "systemd" / "sysctl.d").iterdir():
        shutil.copy(sysctl, lib / "sysctl.d" / sysctl.name)
    shutil.copy(ROOT / "systemd" / "sysusers.d" / "vxland.conf", lib / "sysusers.d" / "vxland.conf")
    subprocess.run(["chroot", root, "systemd-sysusers", "vxland.conf"], check=True)
