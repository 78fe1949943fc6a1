"""ICMP errors forged by a host on the underlay must not lower a path MTU. lab.py has the topology.

node a (vxland) ===== e0 of node b, which forges errors of a router that does not exist
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether

from .asking import METRICS, ask, ask_json, page
from .conftest import running
from .daemon import Gear
from .lab import OVERHEAD, PORT, UNDERLAY_MTU, Lab
from .ns import wait_until
from .traffic import HEADERS, ping, send_tcp
from .wire import packet_socket

pytestmark = pytest.mark.netns

ROUTER = {4: "192.168.111.1", 6: "fd00:111::1"}
CLAIM = 576
LEAST = 1280


def lab_with(directory: Path, gear: Gear = "compiled", **underlay: str) -> Lab:
    """Return a lab whose node a has metrics and these settings of the underlay."""
    made = Lab(directory, gear)
    made.vxland.settings["metrics"]["listen"] = METRICS
    made.vxland.settings["underlay"] |= underlay
    return made


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Datagrams without DF, as flannel sends them."""
    yield from running(lab_with(tmp_path_factory.mktemp("lab"), request.param))


@pytest.fixture(params=["set", "inherit"])
def fixed(request: pytest.FixtureRequest, tmp_path: Path, _able: None) -> Iterator[Lab]:
    """Datagrams with DF, for which routers do send such errors."""
    yield from running(lab_with(tmp_path, df=request.param))


@pytest.fixture
def over_v6(tmp_path: Path, _able: None) -> Iterator[Lab]:
    """An underlay of IPv6."""
    yield from running(Lab(tmp_path, "compiled", underlay=6))


def forge(lab: Lab, *ports: int, claim: int = CLAIM) -> None:
    """Send errors that quote full datagrams of node a to node b, from each of these ports."""
    a, b = lab.a, lab.b
    macs = Ether(src=b.ns.ip_json("link show e0")[0]["address"], dst=a.ns.ip_json("link show e0")[0]["address"])
    with b.ns.inside(packet_socket) as sock:
        sock.bind(("e0", 0))
        for port in ports:
            udp = UDP(sport=port, dport=PORT, len=UNDERLAY_MTU - 20) / bytes(500)
            if lab.underlay == 4:
                quoted = IP(src=a.vtep, dst=b.vtep, len=UNDERLAY_MTU, flags="DF") / udp
                error = IP(src=ROUTER[4], dst=a.vtep) / ICMP(type=3, code=4, nexthopmtu=claim) / quoted
            else:
                quoted6 = IPv6(src=a.vtep, dst=b.vtep, plen=UNDERLAY_MTU - 40, nh=17) / udp
                error = IPv6(src=ROUTER[6], dst=a.vtep) / ICMPv6PacketTooBig(mtu=claim) / quoted6
            sock.send(bytes(macs / error))


def cached(lab: Lab) -> int | None:
    """Return the path MTU to node b in node a's kernel."""
    (route,) = lab.a.ns.ip_json(f"route get {lab.b.vtep}")
    return next((int(metrics["mtu"]) for metrics in route.get("metrics", []) if "mtu" in metrics), None)


def senders(lab: Lab) -> list[int]:
    """Return node a's source ports; an attacker sees them in a datagram, or tries all."""
    sockets = lab.a.ns.run("cat", f"/proc/net/udp{'6' if lab.underlay == 6 else ''}").splitlines()[1:]
    return [port for line in sockets if (port := int(line.split()[1].rpartition(":")[2], 16)) != PORT]


def path(lab: Lab) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return the path to node b from `vxlandctl peers`."""
    return ask_json(lab.vxland, "peers")[0]["path"]


def full_packets_pass(lab: Lab, mtu: int) -> None:
    """Assert that packets of `mtu` bytes with DF cross, and TCP too; no pod gets an ICMP error."""
    ping(lab.a.pod_ns, lab.b.pod[4], mtu - HEADERS[4])
    ping(lab.a.pod_ns, lab.b.pod[6], mtu - HEADERS[6])
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 2_000_000)


def test_an_error_about_the_vxlan_port(lab: Lab) -> None:
    """One datagram from 8472 to 8472, which needs no guess, set the path MTU to 576 for ten minutes."""
    full_packets_pass(lab, lab.a.mtu)
    forge(lab, PORT)
    full_packets_pass(lab, lab.a.mtu)
    assert cached(lab) is None
    assert path(lab)["mtu"] == UNDERLAY_MTU


def test_an_error_about_a_sending_port(lab: Lab) -> None:
    """Without DF no router sends such an error; the kernel accepts it, vxland does not, and reports it everywhere."""
    full_packets_pass(lab, lab.a.mtu)
    forge(lab, *senders(lab))
    claimed = wait_until(lambda: cached(lab), "the kernel has taken it")
    wait_until(lambda: path(lab)["disbelieved"] == claimed, "vxland has seen it", lab.vxland.said)
    before = ask_json(lab.vxland, "stats")["encap"]
    full_packets_pass(lab, lab.a.mtu)
    after = ask_json(lab.vxland, "stats")["encap"]
    assert after["drops"]["too_big"] == before["drops"]["too_big"]
    assert after["drops"]["send_failed"] == before["drops"]["send_failed"]
    assert path(lab)["mtu"] == UNDERLAY_MTU
    (plane,) = ask_json(lab.vxland, "status")["planes"]
    assert plane["underlay"]["narrower"] == {}
    assert plane["underlay"]["disbelieved"] == {lab.b.vtep: claimed}
    assert f"ICMP says {claimed} bytes, which is not believed" in ask(lab.vxland, "peers")
    assert "is not believed" in ask(lab.vxland, "status")
    assert 'vxland_disbelieved_paths{device="flannel.1"} 1.0' in page(lab, "/metrics")
    (event, *_) = lab.vxland.events("path_mtu_disbelieved")
    assert (event["vtep"], event["claimed"], event["mtu"]) == (lab.b.vtep, claimed, UNDERLAY_MTU)
    assert lab.vxland.events("offload_off") == []


def test_a_routes_mtu_counts(lab: Lab) -> None:
    """The node's own routes are trusted, with or without a forged error."""
    lab.a.ns.ip("route flush cache")
    lab.a.ns.ip(f"route add {lab.b.vtep}/32 dev e0 mtu 1400")
    try:
        wait_until(lambda: path(lab)["mtu"] == 1400, "the route is followed")
        forge(lab, *senders(lab))
        wait_until(lambda: path(lab)["disbelieved"], "the error is seen")
        assert path(lab)["mtu"] == 1400
        assert path(lab)["source"] == "route"
    finally:
        lab.a.ns.ip(f"route del {lab.b.vtep}/32 dev e0")
    wait_until(lambda: path(lab)["mtu"] == UNDERLAY_MTU, "the route is gone")


def test_with_df_an_error_costs_little(fixed: Lab) -> None:
    """The error may be true here, so the path MTU falls; but not below any link's, whatever the kernel accepts."""
    full_packets_pass(fixed, fixed.a.mtu)
    forge(fixed, PORT)
    full_packets_pass(fixed, fixed.a.mtu)
    forge(fixed, *senders(fixed))
    claimed = wait_until(lambda: cached(fixed), "the kernel has taken it")
    wait_until(lambda: path(fixed)["mtu"] == LEAST, "vxland has seen it", fixed.vxland.said)
    assert (path(fixed)["source"], path(fixed)["disbelieved"]) == ("icmp", claimed)
    ping(fixed.a.pod_ns, fixed.b.pod[4], LEAST - OVERHEAD[4] - HEADERS[4])
    send_tcp(fixed.a.pod_ns, fixed.b.pod_ns, fixed.b.pod[4], 2_000_000)


def test_over_ipv6(over_v6: Lab) -> None:
    """Packet too big: ignored for 8472, and never below 1,280 bytes."""
    full_packets_pass(over_v6, over_v6.a.mtu)
    forge(over_v6, PORT)
    full_packets_pass(over_v6, over_v6.a.mtu)
    assert cached(over_v6) is None
    forge(over_v6, *senders(over_v6), claim=68)
    full_packets_pass(over_v6, over_v6.a.mtu)
    forge(over_v6, *senders(over_v6), claim=LEAST)
    wait_until(lambda: path(over_v6)["mtu"] == LEAST, "vxland has seen it", over_v6.vxland.said)
    assert path(over_v6)["source"] == "icmp"
    send_tcp(over_v6.a.pod_ns, over_v6.b.pod_ns, over_v6.b.pod[4], 2_000_000)
