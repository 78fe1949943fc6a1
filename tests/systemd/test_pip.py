"""The wheel on booted nodes of Debian 12 and 13 without a compiler and without a network: docs/install.md with pip.

node a   flannel.1 10.244.0.0   e0 192.168.111.128 ===== .129 e0   flannel.1 10.244.1.0   node b
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.systemd import pages
from tests.systemd.conftest import PYTHONS, SCRATCH, SUITE_OF, wheel_for
from tests.systemd.node import Node, booted
from tests.systemd.rootfs import bare
from vxland import __version__

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def download(python: str, command: str, wheel: Path, folder: Path) -> None:
    """Run the page's command that fills a folder with wheels. The project's own comes from here, as before a release.

    The others have the versions of the lock, so that a new version of one of them changes no test.
    """
    lock = (ROOT / "requirements-image.lock").read_text()
    constraints = folder / "constraints"
    constraints.write_text("\n".join(re.findall(r"^[\w.-]+==[^ \\;]+", lock, re.MULTILINE)))
    found = f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
    env = os.environ | {"PIP_CONSTRAINT": str(constraints), "PIP_FIND_LINKS": found}
    if python != HERE:
        env["PIP_PYTHON_VERSION"] = python
    first, *words = shlex.split(command)
    assert first == "python3"
    subprocess.run((sys.executable, "-P", *words), cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module", params=PYTHONS, ids=SUITE_OF.get)
def installed(
    request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Node, Node]]:
    """Two nodes after the commands of docs/install.md, in order; nothing else was done to them."""
    install, services, fetch, offline = pages.blocks("With pip")
    folder = tmp_path_factory.mktemp("offline")
    download(request.param, fetch, wheel_for(request.param, wheels), folder)
    with booted(bare(SCRATCH, SUITE_OF[request.param]), f"vxp-{os.getpid()}", SCRATCH) as pair:
        for node in pair:
            pages.make_fresh(node)
            node.run("sh", "-c", "echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/yes")
            shutil.copytree(folder / "wheels", node.etc / "wheels")
            node.run("mv", "/etc/vxland/wheels", "/srv/wheels")
            node.run("sh", "-euc", f"{offline}{install}{services}")
            assert not pages.has_compiler(node)
        pages.start_two_nodes(pair)
        yield pair


def test_two_nodes_by_the_page(installed: tuple[Node, Node]) -> None:
    """Pings pass, and the compiled gear of the wheel runs, of Debian's Python, as the user that the page makes."""
    a, b = installed
    for node, peer in ((a, b), (b, a)):
        node.run("ping", "-c", "3", "-i", "0.1", "-W", "5", peer.overlay)
        assert node.run("vxland", "--version").startswith(f"vxland, version {__version__}, commit ")
        where = "from vxland.forwarding import pump; print(pump.COMPILED, pump.__file__)"
        compiled, path = node.run("/opt/vxland/bin/python", "-P", "-c", where).split()
        assert compiled == "True"
        assert path.startswith("/opt/vxland/lib/")
        pid = node.run("systemctl", "show", "--value", "-p", "MainPID", "vxland").strip()
        assert node.run("ps", "-o", "user=", "-p", pid).strip() == "vxland"
        assert "vxland" in node.run("sh", "-c", "cat /opt/vxland/share/man/man8/vxland.8")


def test_upgrade_and_removal_by_the_page(installed: tuple[Node, Node]) -> None:
    """The commands of an upgrade run, also for the same version; the removal leaves no device."""
    (upgrade,) = pages.blocks("Upgrade and remove with pip")
    _, _, _, offline = pages.blocks("With pip")
    a, b = installed
    a.run("sh", "-euc", f"{offline}{upgrade}")
    b.run("ping", "-c", "3", "-i", "0.1", "-W", "5", a.overlay)
    b.run("systemctl", "stop", "vxland")
    b.run("vxland", "run", "--cleanup", "-c", "/etc/vxland/vxland.yaml")
    assert b.ip_json("link show flannel.1") == []
