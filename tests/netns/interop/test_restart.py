"""Restarts of either side during a ping, and `vxland run --cleanup`.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pinging import Pinging

from .conftest import running
from .daemon import ROOT, plain
from .lab import FAMILIES, Lab, Node
from .ns import Ns
from .traffic import ping, send_tcp

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, or with the fast path."""
    yield from running(Lab(tmp_path_factory.mktemp("restart"), request.param))


@contextmanager
def pings(lab: Lab, directory: Path) -> Iterator[list[Pinging]]:
    """Pings between the pods both ways during the body, after first replies."""
    running = [
        Pinging(near.pod_ns.name, far.pod[4], directory / f"ping-{near.letter}")
        for near, far in ((lab.a, lab.b), (lab.b, lab.a))
    ]
    try:
        for one in running:
            one.wait()
        yield running
    finally:
        for one in running:
            one.stop()


def state(node: Node) -> dict[str, Any]:
    """Return the state that must survive the daemon: MAC, MTU, addresses, routes, neighbours; without link state."""
    (link,) = node.ns.ip_json("link show flannel.1")
    (addresses,) = node.ns.ip_json("addr show flannel.1")
    routes = node.ns.ip_json("-4 route show dev flannel.1") + node.ns.ip_json("-6 route show dev flannel.1")
    neighbours = node.ns.ip_json("neigh show dev flannel.1 nud permanent")
    return {
        "link": (link["address"], link["mtu"], "UP" in link["flags"]),
        "addresses": {(entry["local"], entry["prefixlen"]) for entry in addresses["addr_info"]},
        "routes": {(route["dst"], route.get("gateway")) for route in routes if route["dst"] != "fe80::/64"},
        "neighbours": {(entry["dst"], entry["lladdr"]) for entry in neighbours if not entry["dst"].startswith("ff")},
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_restart_of_vxland(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    """Stopped or killed, it leaves device, addresses, routes and neighbours; restarted, it has its MAC, and continues.

    The peer needs no change. A stop is exit code 0.
    """
    before = state(lab.a)
    assert {dst for dst, _ in before["neighbours"]} == {lab.b.base[family] for family in FAMILIES}
    with pings(lab, tmp_path) as running:
        code = lab.vxland.stop(number)
        left = state(lab.a)
        lab.vxland.start()
        for one in running:
            one.wait()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert left == before
    assert state(lab.a) == before


def test_restart_with_a_full_tap_queue(lab: Lab) -> None:
    """Frames that wait in the TAP's queue do not disturb a new daemon; TCP works at once."""
    assert lab.vxland.stop() == 0
    with lab.a.ns.socket(lab.a.gateway[4]) as sender:
        for _ in range(500):
            sender.sendto(bytes(1400), (lab.b.gateway[4], 9))
    lab.vxland.start()
    ping(lab.b.pod_ns, lab.a.pod[4])
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 500_000)


def test_peer_recreated_with_its_mac(lab: Lab, tmp_path: Path) -> None:
    """The peer's device is deleted and made again, as on a node that reboots: the pings continue by themselves."""
    mac = lab.b.mac()
    with pings(lab, tmp_path) as running:
        lab.kernel.delete()
        ping_fails(lab.a.pod_ns, lab.b.pod[4])
        lab.kernel.create(mac)
        lab.kernel.add_peer(lab.a, lab.a.mac())
        for one in running:
            one.wait()


def test_peer_recreated_with_another_mac(lab: Lab, tmp_path: Path) -> None:
    """A flanneld that kept no MAC returns with another: after a reload the pings continue, IPv6's too."""
    kept = lab.b.mac()
    (peer,) = lab.vxland.peers
    with pings(lab, tmp_path) as running:
        for mac in ("02:00:00:00:00:0b", kept):
            lab.kernel.delete()
            lab.kernel.create(mac)
            lab.kernel.add_peer(lab.a, lab.a.mac())
            peer["mac"] = mac
            lab.vxland.reload()
            for one in running:
                one.wait()
            ping(lab.a.ns, lab.b.pod[6])


def test_cleanup_removes_the_device_of_a_stopped_daemon(lab: Lab) -> None:
    """While a vxland runs: exit 1 and one line. After it: exit 0, the TAP gone; with nothing to remove: exit 0."""
    busy = cleanup(lab)
    assert busy.returncode == 1
    assert busy.stdout == ""
    assert plain(busy.stderr).startswith("vxland: the TAP flannel.1 is in use by another process; ")
    assert len(busy.stderr.splitlines()) == 1
    ping(lab.a.pod_ns, lab.b.pod[4])  # it continues
    mac = lab.a.mac()
    assert lab.vxland.stop() == 0
    try:
        first, second = cleanup(lab), cleanup(lab)
        assert "flannel.1" not in lab.a.ns.links()
    finally:
        lab.vxland.start()
        lab.kernel.add_peer(lab.a, lab.a.mac())
    assert (first.returncode, first.stdout) == (0, "removed: flannel.1\n")
    assert (second.returncode, second.stdout) == (0, "nothing to remove\n")
    if Path("/etc/machine-id").exists():  # the MAC is derived from it, so it stays the same
        assert lab.a.mac() == mac
    ping(lab.b.pod_ns, lab.a.pod[4])


def cleanup(lab: Lab) -> subprocess.CompletedProcess[str]:
    """Run `vxland run --cleanup` in node a."""
    return subprocess.run(
        lab.vxland.command("--cleanup"), cwd=ROOT, check=False, capture_output=True, text=True, timeout=30
    )


def ping_fails(source: Ns, address: str) -> None:
    """Assert that one echo request gets no answer."""
    assert source.attempt("ping", "-c", "1", "-W", "0.3", address).returncode != 0
