"""SIGHUP: peers and source_check change while frames are forwarded; a refused file changes nothing.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
                                  =====  "node c": addresses of node b's e0 that a forger and a capture use
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import running
from .lab import FAMILIES, Lab
from .traffic import ping
from .wire import Capture, Forger, Listener, inner_for_daemon, inner_udp, vxlan_header

pytestmark = pytest.mark.netns

C_VTEP, UNKNOWN = "192.168.111.130", "192.168.111.131"
C_MAC = "02:00:00:00:00:0c"
NODE_C: dict[str, Any] = {"subnet": ["10.244.2.0/24", "fd00:10:244:12::/64"], "vtep": C_VTEP, "mac": C_MAC}


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The usual lab with one worker: two would deliver the datagrams of two senders in any order."""
    made = Lab(tmp_path_factory.mktemp("reload"), request.param)
    made.vxland.settings["datapath"] |= {"workers": 1}
    yield from running(made)


@pytest.fixture(autouse=True)
def _as_before(lab: Lab) -> Iterator[None]:
    """Further underlay addresses at node b; afterwards the settings are restored."""
    for address in (C_VTEP, UNKNOWN):
        lab.b.ns.ip(f"addr replace {address}/24 dev e0")
    settings = copy.deepcopy(lab.vxland.settings)
    yield
    if lab.vxland.settings != settings:
        lab.vxland.settings = settings
        lab.vxland.reload()


def arrives(lab: Lab, outer_src: str) -> bool:
    """Return whether a datagram with this outer source reaches node a's stack."""
    return arrive(lab, outer_src, 1) == 1


def arrive(lab: Lab, outer_src: str, count: int) -> int:
    """Return the number of `count` datagrams with this outer source that reach node a's stack."""
    a, b = lab.a, lab.b
    macs, addresses = (b.mac(), a.mac()), (b.gateway[4], a.gateway[4])
    with (
        Listener(a.ns, a.gateway[4]) as listener,
        Forger(b.ns, outer_src, a.vtep) as forger,
        Forger(b.ns, b.vtep, a.vtep) as known,
    ):
        for number in range(count):
            forger.send(vxlan_header() + inner_udp(macs, addresses, listener.port, b"%d" % number))
        known.send(vxlan_header() + inner_for_daemon(macs, addresses, listener.port, b"end"))
        return len(listener.receive_until(b"end"))


def sent_to(lab: Lab, target: str) -> tuple[str, str]:
    """Return outer destination and inner destination MAC of node a's datagram to an overlay address."""
    with Capture(lab.a.ns) as capture:
        lab.a.ns.attempt("ping", "-c", "1", "-W", "0.1", target)
        (datagram,) = capture.wait(lambda found: found.inner.payload.dst == target)
    return datagram.outer_dst, datagram.inner.dst


def test_the_changes_of_a_peer(lab: Lab) -> None:
    """Added, given another MAC, moved to another VTEP, removed: each shows in route, neighbour and on the wire."""
    (known,) = lab.vxland.peers
    target = {4: "10.244.2.5", 6: "fd00:10:244:12::5"}
    routes = set(lab.b.subnet.values())
    assert not arrives(lab, C_VTEP)

    peer = dict(NODE_C)
    lab.vxland.settings["registry"]["peers"] = [known, peer]
    lab.vxland.reload()
    assert {route["dst"] for route in lab.vxland.routes()} == routes | set(NODE_C["subnet"])
    assert lab.vxland.neighbours()["10.244.2.0"] == C_MAC
    assert lab.vxland.neighbours()["fd00:10:244:12::"] == C_MAC
    for family in FAMILIES:
        assert sent_to(lab, target[family]) == (C_VTEP, C_MAC)
    assert arrives(lab, C_VTEP)

    peer["mac"] = "02:00:00:00:00:cc"
    lab.vxland.reload()
    assert sent_to(lab, target[4]) == (C_VTEP, peer["mac"])

    peer["vtep"] = UNKNOWN
    lab.vxland.reload()
    assert sent_to(lab, target[6]) == (UNKNOWN, peer["mac"])
    assert arrives(lab, UNKNOWN)
    assert not arrives(lab, C_VTEP)

    lab.vxland.settings["registry"]["peers"] = [known]
    lab.vxland.reload()
    assert {route["dst"] for route in lab.vxland.routes()} == routes
    assert set(lab.vxland.neighbours()) == set(lab.b.base.values())
    assert not arrives(lab, UNKNOWN)
    ping(lab.a.pod_ns, lab.b.pod[4])


def test_a_refused_file_changes_nothing(lab: Lab) -> None:
    """Each problem is an event with key, value and remedy; leases, kernel state and traffic stay."""
    settings = lab.vxland.settings
    before = (lab.vxland.routes(), lab.vxland.neighbours())
    changes = len(lab.vxland.events("leases_changed"))
    settings["registry"]["peers"] = [NODE_C, NODE_C | {"mac": "02:00"}]
    settings["overlay"]["mtuu"] = 1400
    lab.vxland.write()
    events = lab.vxland.hang_up("reload_refused", 2)
    found = {event["key"]: (event["value"], event["remedy"]) for event in events}
    assert found == {
        "overlay.mtuu": (1400, "write mtu: this key is not known"),
        "registry.peers[1].mac": (
            "02:00",
            "write six bytes in hex with colons between them, such as ce:5f:f6:73:cf:b9",
        ),
    }
    assert {event["level"] for event in events} == {"error"}
    ping(lab.a.pod_ns, lab.b.pod[4])
    ping(lab.b.pod_ns, lab.a.pod[6])
    assert (lab.vxland.routes(), lab.vxland.neighbours()) == before
    assert not arrives(lab, C_VTEP)
    assert len(lab.vxland.events("leases_changed")) == changes


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("overlay: [", None, "correct the YAML there"),
        ("", "overlay.network", "give the cluster's pod network, such as 10.244.0.0/16"),
        (None, None, "name a configuration file that can be read"),
    ],
    ids=["broken", "empty", "missing"],
)
def test_an_unreadable_file_changes_nothing(lab: Lab, text: str | None, key: str | None, remedy: str) -> None:
    """Incomplete YAML, no text, no file: the log has the reason, and traffic continues."""
    if text is None:
        lab.vxland.path.unlink()
    else:
        lab.vxland.path.write_text(text)
    try:
        event = lab.vxland.hang_up("reload_refused")[0]
    finally:
        lab.vxland.write()
    assert (event["key"], event["remedy"]) == (key or str(lab.vxland.path), remedy)
    ping(lab.a.pod_ns, lab.b.pod[4])
    lab.vxland.reload()


def test_changes_that_need_a_restart_are_refused(lab: Lab) -> None:
    """Another MTU and a new peer in one file: the remedy is a restart, and the peer is not added either."""
    (known,) = lab.vxland.peers
    lab.vxland.settings["overlay"]["mtu"] = 1400
    lab.vxland.settings["registry"]["peers"] = [known, NODE_C]
    lab.vxland.write()
    (event,) = lab.vxland.hang_up("reload_refused")
    assert (event["key"], event["value"]) == ("overlay.mtu", 1400)
    assert event["remedy"].startswith("restart vxland to change it")
    assert not arrives(lab, C_VTEP)
    assert {route["dst"] for route in lab.vxland.routes()} == set(lab.b.subnet.values())


def test_unknown_vteps_are_refused_and_counted(lab: Lab) -> None:
    """Only leased VTEPs may inject, until source_check is off; each refusal is counted under its reason."""
    security = lab.vxland.settings["security"]
    assert lab.vxland.stop() == 0
    lab.vxland.start()
    assert arrive(lab, UNKNOWN, 7) == 0
    security["source_check"] = "off"
    lab.vxland.reload()
    assert arrive(lab, UNKNOWN, 7) == 7
    security["source_check"] = "vtep"
    lab.vxland.reload()
    assert arrive(lab, UNKNOWN, 4) == 0
    try:
        assert lab.vxland.stop() == 0
        assert lab.vxland.drops("decap") == {"unknown_vtep": 11}
    finally:
        lab.vxland.start()
