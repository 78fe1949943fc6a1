"""The Debian package on booted nodes of its release: docs/install.md, an upgrade under traffic, and the removal.

node a   flannel.1 10.244.0.0 = programs = e0 192.168.111.128 ===== .129 e0 = programs = flannel.1 10.244.1.0   node b
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.pinging import Pinging
from tests.systemd import pages
from tests.systemd.conftest import PYTHONS, SCRATCH, SUITE_OF, wheel_for
from tests.systemd.node import Node, booted, wait_until
from tests.systemd.rootfs import bare
from tests.systemd.test_service import report


@dataclass(frozen=True, slots=True)
class Installed:
    """Two nodes that run the package, and two versions of it."""

    a: Node
    b: Node
    version: str
    newer: str


@pytest.fixture(scope="module", params=PYTHONS, ids=SUITE_OF.get)
def installed(request: pytest.FixtureRequest, wheels: Path) -> Iterator[Installed]:
    """Two nodes after the commands of docs/install.md, in order; nothing else was done to them."""
    python: str = request.param
    wheel = wheel_for(python, wheels)
    dist = wheels / python
    for update in ("1", "2"):
        build = (sys.executable, "-m", "tools.deb", "--wheel", wheel, "--update", update, "--dist", dist)
        subprocess.run(build, check=True, cwd=ROOT)
    first, second = sorted(dist.iterdir())
    with booted(bare(SCRATCH, SUITE_OF[python]), f"vxd-{os.getpid()}", SCRATCH) as pair:
        for node in pair:
            install_by_the_page(node, first)
            shutil.copy(second, node.etc)
        pages.start_two_nodes(pair)
        a, b = pair
        yield Installed(a, b, first.name.split("_")[1], second.name.split("_")[1])


def install_by_the_page(node: Node, package: Path) -> None:
    """Do what the page says, on a node of its own."""
    (install,) = pages.blocks("With apt")
    pages.make_fresh(node)
    shutil.copy(package, node.etc)
    node.run("sh", "-euc", f"cd /etc/vxland\n{install}")
    (node.etc / package.name).unlink()


def version(node: Node) -> str:
    """Return the version of the package that is installed."""
    return node.run("dpkg-query", "-W", "-f", "${Version}", "vxland")


def main_pid(node: Node) -> str:
    """Return the process of the service."""
    return node.run("systemctl", "show", "--value", "-p", "MainPID", "vxland").strip()


def carried(node: Node) -> bool:
    """Return whether the fast path is on."""
    return bool(json.loads(node.run("vxlandctl", "status", "--json"))["planes"][0]["fast_path"]["on"])


def test_two_nodes_by_the_page(installed: Installed) -> None:
    """Pings pass, the fast path is on, and the compiled gear runs, of Debian's Python and nothing below /usr/local."""
    for node, peer in ((installed.a, installed.b), (installed.b, installed.a)):
        assert version(node) == installed.version
        node.run("ping", "-c", "3", "-i", "0.1", "-W", "5", peer.overlay)
        wait_until(partial(carried, node), "the fast path is on", partial(node.run, "vxlandctl", "status"))
        assert node.run("ps", "-o", "user=", "-p", main_pid(node)).strip() == "vxland"
        where = "from vxland.forwarding import pump; print(pump.COMPILED, pump.__file__)"
        compiled, path = node.run("/usr/lib/vxland/bin/python3", "-P", "-c", where).split()
        assert compiled == "True"
        assert path.startswith("/usr/lib/vxland/lib/")
        assert node.run("sh", "-c", "find / -xdev -user vxland -prune -not -path '/proc/*'").split() == [
            "/var/lib/vxland"
        ]
        assert "vxland" in node.run("sh", "-c", "zcat /usr/share/man/man8/vxland.8.gz")
        changed = node.attempt("dpkg", "--verify", "vxland").stdout.splitlines()
        assert [line.split()[1:] for line in changed] == [["c", "/etc/vxland/vxland.yaml"]]
        assert " etc/" not in node.run("cat", "/var/lib/dpkg/info/vxland.md5sums")  # conffiles have sums elsewhere


def test_upgrade_under_traffic(installed: Installed, log: Path) -> None:
    """A ping every 10 ms is answered while the next version takes over; the administrator's file stays."""
    a = installed.a
    before, file = main_pid(a), (a.etc / "vxland.yaml").read_text()
    with Pinging(a.name, installed.b.overlay, log, 0.01) as pinging:
        a.run("sh", "-euc", "DEBIAN_FRONTEND=noninteractive apt-get install -y /etc/vxland/vxland_*.deb")
        assert main_pid(a) not in {"0", before}
        pinging.wait(20)
    slowest = max(pinging.replies().values())
    report(f"upgrade: {len(pinging.lost())} of {len(pinging.replies())} pings lost, the slowest took {slowest:.0f} ms")
    assert pinging.lost() == []
    assert version(a) == installed.newer
    assert (a.etc / "vxland.yaml").read_text() == file
    wait_until(partial(carried, a), "the fast path is on again", partial(a.run, "vxlandctl", "status"))


def test_upgrade_while_a_store_is_unreachable(installed: Installed) -> None:
    """Dpkg waited for an instance without leases, and so for its store, with the lock held; the others restart."""
    b = installed.b
    settings = {"registry": {"kind": "etcd"}, "etcd": {"endpoints": ["http://192.168.111.77:2379"]}}
    (b.etc / "7.yaml").write_text(json.dumps(settings | {"underlay": {"interface": "e0"}, "metrics": {"listen": ""}}))
    b.run("systemctl", "start", "--no-block", "vxland@7")
    before = main_pid(b)
    done = b.attempt("sh", "-euc", "DEBIAN_FRONTEND=noninteractive apt-get install -y /etc/vxland/vxland_*.deb")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a service is not ready yet" in done.stdout  # apt gives the scripts one terminal
    assert version(b) == installed.newer
    assert main_pid(b) not in {"0", before}
    assert b.attempt("systemctl", "is-active", "vxland@7").stdout.strip() == "activating"


def test_removal_and_purge(installed: Installed) -> None:
    """A removal takes device and programs away, and keeps what was configured; a purge leaves the user alone.

    It reports a file that it cannot use, whose device would stay without a word. An upgrade that is aborted leaves byte
    code, which the user of the services cannot make.
    """
    b = installed.b
    for script, step in (("prerm", "upgrade"), ("postinst", "abort-upgrade")):
        b.run(f"/var/lib/dpkg/info/vxland.{script}", step, installed.newer)
    assert b.run("find", "/usr/lib/vxland", "-name", "daemon.*.pyc")
    (b.etc / "7.yaml").write_text("overlay: {nettwork: 10.244.0.0/16}\n")
    said = b.run("apt-get", "remove", "-y", "vxland")
    assert "overlay.nettwork" in said
    assert "anything that /etc/vxland/7.yaml made in the kernel stays" in said
    assert "/etc/vxland/vxland.yaml" not in said
    assert b.ip_json("link show flannel.1") == []
    assert (b.etc / "vxland.yaml").exists()
    b.run("apt-get", "purge", "-y", "vxland")
    assert not (b.etc / "vxland.yaml").exists()
    ours = "find / -xdev \\( -name '*vxland*' -o -user vxland \\) -not -path '/etc/vxland*' -not -path '/var/log/*'"
    assert b.run("sh", "-c", ours).split() == []
    assert b.attempt("systemctl", "cat", "vxland.service").returncode != 0
