"""Pings of peers through the tunnel: answers, times and full-size packets; and the diagnosis of a silent peer.

    flannel.1 10.244.0.0 (vxland) ---- e0 ===== e0 ---- flannel.1 10.244.1.0 (kernel vxlan, or vxland)

Each test causes a fault at node b, and sees it reported at node a, then repairs it and sees that too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

from .asking import ask, ask_json, page
from .confinement import python
from .conftest import running
from .lab import FAMILIES, PORT, Lab
from .ns import wait_until
from .probing import firewall, probes, probing, wait_cause, wait_well
from .traffic import ping

pytestmark = pytest.mark.netns

PINGABLE = "net.ipv4.ping_group_range"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a pings, node b is the kernel's vxlan."""
    yield from running(probing(Lab(tmp_path_factory.mktemp("lab"), "compiled")))


def test_without_a_fault(lab: Lab) -> None:
    """Both families answer, 1450 bytes too; times are those of a veth; status, metrics and log agree."""
    wait_well(lab)
    for probe in probes(lab.vxland).values():
        assert 0 < probe["rtt_min_s"] <= probe["rtt_smoothed_s"] < PATIENCE_S
        assert probe["loss"] < 1  # the first pings left before node b knew node a
        assert (probe["mtu"], probe["cause"]) == (lab.a.mtu, None)
    (plane,) = ask_json(lab.vxland, "status")["planes"]
    assert (plane["probes"]["off"], plane["probes"]["reachable"]) == ("", 2)
    assert page(lab, "/readyz") == "vxland is ready\n"
    text = page(lab, "/metrics")
    for name in ("reachable", "full_mtu"):
        assert f'vxland_peer_{name}{{device="flannel.1",peer="{lab.b.vtep}"}} 1.0' in text
    assert 'vxland_peers{device="flannel.1",state="reachable"} 2.0' in text
    assert 'vxland_peers{device="flannel.1",state="unreachable"} 0.0' in text


def test_a_filtered_port(lab: Lab) -> None:
    """8472/udp is dropped: diagnosed, the node stays ready, readiness, metrics and log name the peer; then recovery."""
    wait_well(lab)
    seen = len(lab.vxland.events("peer_unreachable"))
    with firewall(lab, f"udp dport {PORT} drop"):
        found = wait_cause(lab, "tunnel_filtered")
        assert {probe["state"] for probe in found} == {"unreachable"}
        assert "UDP port 8472 is filtered on the way" in found[0]["cause"]["happened"]
        first, second, *lines = page(lab, "/readyz").splitlines()
        assert (first, second) == ("vxland is ready", "no peer answers")
        assert [line.split(": ")[:2] for line in lines] == [
            ["unreachable", f"{lab.b.subnet[family]} at {lab.b.vtep}"] for family in FAMILIES
        ]
        text = page(lab, "/metrics")
        assert f'vxland_peer_reachable{{device="flannel.1",peer="{lab.b.vtep}"}} 0.0' in text
        assert 'vxland_peers_troubled{cause="tunnel_filtered",device="flannel.1"} 2.0' in text
    wait_well(lab)
    for event in ("peer_unreachable", "peer_back"):
        events = lab.vxland.events(event)[seen:]
        assert {(each["subnet"], each["vtep"]) for each in events} == {
            (lab.b.subnet[family], lab.b.vtep) for family in FAMILIES
        }
        assert len(events) == 2


def test_a_closed_port(lab: Lab) -> None:
    """No VXLAN device at the peer: its kernel reports the closed port, and vxland receives this."""
    wait_well(lab)
    mac = lab.b.mac()
    lab.kernel.delete()
    try:
        (cause, _) = (probe["cause"] for probe in wait_cause(lab, "port_closed"))
        assert cause["happened"].startswith(f"UDP port 8472 is closed at {lab.b.vtep}, or rejected by a firewall")
    finally:
        lab.kernel.create(mac)
        lab.kernel.add_peer(lab.a, lab.a.mac())
    wait_well(lab)


def test_a_stale_mac(lab: Lab) -> None:
    """The peer's device has another MAC than the registry: the diagnosis has both."""
    wait_well(lab)
    mac, other = lab.b.mac(), "02:00:00:00:00:99"
    lab.b.ns.ip(f"link set flannel.1 address {other}")
    lab.kernel.add_peer(lab.a, lab.a.mac())  # a new MAC flushes the neighbours
    try:
        for probe in wait_cause(lab, "mac_stale"):
            assert other in probe["cause"]["happened"]
            assert mac in probe["cause"]["happened"]
    finally:
        lab.b.ns.ip(f"link set flannel.1 address {mac}")
        lab.kernel.add_peer(lab.a, lab.a.mac())
    wait_well(lab)


def test_an_mtu_hole(lab: Lab) -> None:
    """A link drops packets longer than 1400 bytes: the peer answers, and the loss of full packets is reported."""
    wait_well(lab)
    lab.b.ns.ip("link set e0 mtu 1400")
    try:
        for probe in wait_cause(lab, "mtu_hole"):
            assert (probe["state"], probe["full_mtu"]) == ("reachable", "hole")
            assert "1450 bytes does not pass" in probe["cause"]["happened"]
        assert "MTU hole: 10.244.1.0/24" in page(lab, "/readyz")
        assert f'vxland_peer_full_mtu{{device="flannel.1",peer="{lab.b.vtep}"}} 0.0' in page(lab, "/metrics")
    finally:
        lab.b.ns.ip("link set e0 mtu 1500")
    wait_well(lab)
    assert lab.vxland.events("peer_mtu_hole")
    assert lab.vxland.events("peer_mtu_whole")


def test_filtered_pings(lab: Lab) -> None:
    """Only pings are dropped: the diagnosis does not blame the tunnel."""
    wait_well(lab)
    with firewall(lab, "iifname flannel.1 icmp type echo-request drop"):

        def named() -> bool:
            cause = probes(lab.vxland)[lab.b.subnet[4]]["cause"]
            return bool(cause) and cause["word"] == "pings_filtered"

        wait_until(named, "pings_filtered", lab.vxland.said)
        assert probes(lab.vxland)[lab.b.subnet[6]]["state"] == "reachable"
    wait_well(lab)


def test_a_silent_node(lab: Lab) -> None:
    """The peer sends nothing at all."""
    wait_well(lab)
    with firewall(lab, "iifname e0 drop"):
        wait_cause(lab, "silent")
    wait_well(lab)


def test_reload(lab: Lab) -> None:
    """0 switches probes off, in top too; old results are not shown any more. Then on again."""
    lab.vxland.settings["probe"]["interval_s"] = 0
    try:
        lab.vxland.write()
        lab.vxland.hang_up("reloaded")
        wait_until(lambda: ask_json(lab.vxland, "status")["planes"][0]["probes"]["off"], "off", lab.vxland.said)
        assert ask_json(lab.vxland, "status")["planes"][0]["probes"]["off"] == "probe.interval_s is 0"
        assert set(map(str, probes(lab.vxland).values())) == {"None"}
        assert "vxland_peer_reachable{" not in page(lab, "/metrics")
    finally:
        lab.vxland.settings["probe"]["interval_s"] = 1
        lab.vxland.write()
        lab.vxland.hang_up("reloaded")
    wait_well(lab)


def test_unprivileged_sockets(lab: Lab, packages: Path) -> None:
    """If ping_group_range allows it, the daemon pings with an unprivileged socket."""
    code = "from vxland.kernel.ping import Pinger, _open; print(*(_open(version)[1] for version in (4, 6)))"
    ids = ("--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    nobody = ("setpriv", *ids, *python(packages), "-c")
    refused = lab.a.ns.attempt(*nobody, code)
    assert refused.returncode == 1
    assert "net.ipv4.ping_group_range is 1 0" in refused.stderr
    lab.a.ns.run("sysctl", "-qw", f"{PINGABLE}=0 2147483647")
    try:
        assert lab.a.ns.run(*nobody, code) == "False False\n"
        lab.vxland.stop()
        lab.vxland.start()
        wait_well(lab)
    finally:
        lab.a.ns.run("sysctl", "-qw", f"{PINGABLE}=1 0")


class WithoutNetRaw:
    """Starts a daemon without CAP_NET_RAW."""

    kept: list[tuple[str, int]]

    def __init__(self) -> None:
        self.kept = []

    def launcher(self) -> tuple[str, ...]:
        """Return the words before its command line."""
        return ("setpriv", "--bounding-set=-net_raw")

    def environment(self) -> dict[str, str]:
        """Return no additional environment."""
        return {}


def test_no_permission(lab: Lab) -> None:
    """One line in the log and one in status, with cause and remedy; everything else continues."""
    lab.vxland.stop()
    lab.vxland.manager = WithoutNetRaw()
    try:
        lab.vxland.start()
        event = lab.vxland.wait_for("probes_off")
        why = "net.ipv4.ping_group_range is 1 0, which does not let this process ping, and it has no CAP_NET_RAW"
        assert event["cause"] == why
        assert 'sysctl -w net.ipv4.ping_group_range="0 2147483647"' in event["remedy"]
        ask(lab.vxland, "test", code=1)  # of the kernel's node nothing can be tested
        assert len(lab.vxland.events("probes_off")) == 1
        assert ask_json(lab.vxland, "status")["planes"][0]["probes"]["off"].startswith(why)
        assert set(map(str, probes(lab.vxland).values())) == {"None"}
        ping(lab.a.pod_ns, lab.b.pod[4])
    finally:
        lab.vxland.stop()
        lab.vxland.manager = None
        lab.vxland.start()
    wait_well(lab)


@pytest.fixture(params=[(4, "compiled"), (6, "interpreted")], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """Two vxlands over an underlay of either family, in either gear."""
    underlay, gear = request.param
    yield from running(probing(Lab(tmp_path, gear, gear, underlay)))


def test_two_vxlands(pair: Lab) -> None:
    """They answer each other; a peer that stops is silent, and its closed port is diagnosed."""
    wait_well(pair)
    assert pair.other is not None
    pair.other.stop()
    wait_cause(pair, "port_closed")
    pair.other.start()
    wait_well(pair)
