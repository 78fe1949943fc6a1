"""A vxland started by root that changes to nobody, behind a system call filter, with a /dev/net/tun open to all.

That device node is made in a folder, as udev makes it; the daemon sees it in a separate mount namespace.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.installed import files
from vxland.kernel import seccomp

from .daemon import Gear
from .lab import Lab, Vxland

USER: Final = pwd.getpwnam("nobody")
PYTHON: Final = f"/usr/bin/python3.{sys.version_info.minor}"
"""The system's Python: ours may be in root's home, which no other user can read."""

_BIND = 'mount --bind "$1" /dev/net/tun && shift && exec "$@"'


class Confined(Vxland):
    """vxland started by root that changes to another user."""

    tun: Path
    packages: Path

    def vxland(self, *words: str) -> tuple[str, ...]:
        """Prefix the command with the bind mount of /dev/net/tun; `ip netns exec` made the mount namespace."""
        ip, netns, execute, name, *command = super().vxland(*words)
        at = command.index(sys.executable)
        command[at : at + 1] = python(self.packages)
        return (ip, netns, execute, name, "sh", "-c", _BIND, "sh", str(self.tun), *command)


def python(packages: Path) -> tuple[str, ...]:
    """Return the words of a Python that every user can run, with the modules of this folder."""
    return ("env", f"PYTHONPATH={packages}", PYTHON, "-P")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="vxland-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def readable_packages() -> Iterator[Path]:
    """A copy of vxland and its dependencies for every user; the checkout may be its owner's alone, as by umask 077."""
    with open_folder() as folder:
        for path, source in files():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)  # with its time, for which byte code was made
            target.chmod(0o644)
        compiled = (PYTHON, "-m", "compileall", "-q", str(folder / "vxland"))
        subprocess.run(compiled, check=True)  # other users cannot write it
        yield folder


@contextmanager
def open_place() -> Iterator[Path]:
    """A folder for every user, with a TUN node for all of them."""
    with open_folder() as folder:
        tun = folder / "tun"
        os.mknod(tun, stat.S_IFCHR, os.makedev(10, 200))
        tun.chmod(0o666)
        yield folder


def confined(made: Lab, folder: Path, place: Path, packages: Path) -> Confined:
    """Return the vxland of node a, which changes to nobody and writes to folders that do not exist yet."""
    daemon = Confined(made.a, folder, made.vxland.gear)
    daemon.tun, daemon.packages = place / "tun", packages
    daemon.subnet_file = folder / "run" / "flannel" / "subnet.env"
    daemon.settings["control"]["socket"] = str(folder / "run" / "vxland" / "control.sock")
    daemon.settings["security"] |= {"user": USER.pw_name, "seccomp": "on"}
    daemon.settings["firewall"] = {"masquerade": True, "forward": True, "flavour": "nftables", "resync_s": 1}
    return daemon


def confined_lab(gear: Gear, place: Path, packages: Path) -> Lab:
    """Return a lab, not up yet, of such a vxland and the kernel's vxlan; skip the test if it cannot run."""
    if seccomp.library() is None:
        pytest.skip("pip install pyseccomp, apt-get install libseccomp2")
    folder = place / gear
    folder.mkdir()
    made = Lab(folder, gear)
    made.vxland = confined(made, folder, place, packages)
    return made


def held(process: int | str) -> dict[str, str]:
    """Return the fields of /proc/PROCESS/status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
