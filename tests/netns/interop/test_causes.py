"""Diagnoses of silent peers: each fault is made at node b, and node a's `vxlandctl peers` names it.

    flannel.1 10.244.0.0 (vxland) ---- e0 ===== e0 ---- flannel.1 10.244.1.0 (vxland)

Both ping each other every second, so datagrams arrive from a misconfigured peer too. Programs of the fast path leave
such datagrams to the daemon, which names the cause. What they carry meets no firewall at node b, and does not notice
that a daemon hangs or is stopped.
"""

from __future__ import annotations

import copy
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vxland.lab import shell

from .asking import ask, page
from .conftest import running
from .lab import PORT, Lab, Vxland
from .ns import wait_until
from .probing import firewall, probing, wait_cause, wait_well

pytestmark = pytest.mark.netns

OTHER_ADDRESS = "192.168.111.140"
OTHER_MAC = "02:00:00:00:00:42"


BOTH = pytest.mark.parametrize("lab", ["off", "auto"], indirect=True)
FAST = pytest.mark.parametrize("lab", ["auto"], indirect=True)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two vxlands; without the fast path if the test does not ask for it."""
    made = probing(Lab(tmp_path_factory.mktemp("lab"), "compiled", "compiled"))
    yield from running(made.with_fast_path() if getattr(request, "param", "off") == "auto" else made)


@contextmanager
def set_up_as(vxland: Vxland | None, **sections: dict[str, Any]) -> Iterator[Vxland]:
    """A node restarted with other settings; its previous ones are restored afterwards."""
    assert vxland is not None
    before = copy.deepcopy(vxland.settings)
    vxland.stop()
    for section, keys in sections.items():
        vxland.settings[section] |= keys
    try:
        vxland.launch()
        vxland.wait_for("forwarding")
        yield vxland
    finally:
        vxland.stop()
        vxland.settings = before
        vxland.start()


@BOTH
def test_another_vni(lab: Lab) -> None:
    """Drops were counted as `wrong_vni`, but `peers` blamed a filter on the path."""
    wait_well(lab)
    with set_up_as(lab.other, overlay={"vni": 2, "device": "flannel.1"}):
        for probe in wait_cause(lab, "wrong_vni"):
            assert "this node drops them as wrong_vni" in probe["cause"]["happened"]
            assert "with VNI 2" in probe["cause"]["happened"]
            assert "overlay.vni" in probe["cause"]["remedy"]
        assert 'vxland_peers_troubled{cause="wrong_vni",device="flannel.1"} 2.0' in page(lab, "/metrics")
        assert "wrong_vni" in ask(lab.vxland, "peers")
    wait_well(lab)


def test_another_address(lab: Lab) -> None:
    """A peer behind NAT, or one that has moved: its datagrams were dropped as `unknown_vtep`, without a source."""
    wait_well(lab)
    lab.b.ns.ip(f"addr add {OTHER_ADDRESS}/24 dev e0")
    try:
        with set_up_as(lab.other, underlay={"address": OTHER_ADDRESS}):
            for probe in wait_cause(lab, "unknown_vtep"):
                assert OTHER_ADDRESS in probe["cause"]["happened"]
    finally:
        lab.b.ns.ip(f"addr del {OTHER_ADDRESS}/24 dev e0")
    wait_well(lab)


def test_our_own_mac(lab: Lab) -> None:
    """A cloned machine has this node's MAC."""
    wait_well(lab)
    assert lab.other is not None
    stands_in = [peer | {"mac": OTHER_MAC} for peer in lab.other.peers]
    with set_up_as(lab.other, overlay={"mac": lab.a.mac()}, registry={"peers": stands_in}):
        for probe in wait_cause(lab, "own_mac"):
            assert "two nodes with one MAC" in probe["cause"]["remedy"]
    wait_well(lab)


def test_another_subnet_under_strict(lab: Lab) -> None:
    """A peer that sends for a subnet that another node has."""
    wait_well(lab)
    with (
        set_up_as(lab.vxland, security={"source_check": "strict"}),
        set_up_as(lab.other, overlay={"subnet": ["10.244.77.0/24", "fd00:10:244:77::/64"]}),
    ):
        wait_cause(lab, "inner_source_foreign")
    wait_well(lab)


def test_a_peer_that_hangs(lab: Lab) -> None:
    """A stopped daemon looks like a filter from here; the diagnosis did not mention that it may hang."""
    wait_well(lab)
    assert lab.other is not None
    lab.other.send_signal(signal.SIGSTOP)
    try:
        for probe in wait_cause(lab, "tunnel_filtered"):
            assert "the daemon there hangs or is stopped" in probe["cause"]["happened"]
            assert "vxlandctl status" in probe["cause"]["remedy"]
    finally:
        lab.other.send_signal(signal.SIGCONT)
    wait_well(lab)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("reject", "but its frames arrive, so its device exists: a firewall rejects it"),
        ("reject with icmp type admin-prohibited", "ICMP administratively prohibited"),
        ("reject with icmp type host-unreachable", "ICMP host unreachable"),
    ],
    ids=["port-unreachable", "admin-prohibited", "host-unreachable"],
)
def test_a_firewall_that_rejects(lab: Lab, how: str, said: str) -> None:
    """The diagnosis was a closed port, with the advice to start a daemon that runs, or "No route to host"."""
    wait_well(lab)
    shell.set_sysctl(lab.b.ns.name, "ipv4.icmp_ratelimit", 0)  # otherwise pings of the two nodes may use it up
    with firewall(lab, f"udp dport {PORT} {how}"):
        for probe in wait_cause(lab, "refused"):
            assert said in probe["cause"]["happened"]
            assert "firewall there" in probe["cause"]["remedy"]
    wait_well(lab)


def outcomes(lab: Lab) -> dict[str, float]:
    """Return the number of node a's pings by outcome."""
    found = re.findall(r'^vxland_probes_total{.*outcome="(\w+)"} (\S+)$', page(lab, "/metrics"), re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


def wait_answers(lab: Lab) -> None:
    """Return once four further pings are answered, and assert that none was lost or refused."""
    before = outcomes(lab)
    wait_until(lambda: outcomes(lab)["answered"] >= before["answered"] + 4, "answers", lab.vxland.said)
    assert outcomes(lab) | {"answered": 0} == before | {"answered": 0}


def test_a_cause_disappears_with_its_fault(lab: Lab) -> None:
    """A minute after the port was open again, the peer's cause was still `port_closed`."""
    wait_well(lab)
    assert lab.other is not None
    with firewall(lab, "counter"):
        lab.other.stop()
        wait_cause(lab, "port_closed")
        lab.b.ns.run("nft", "add", "rule", "inet", "probes", "in", "udp", "dport", str(PORT), "drop")
        lab.other.start()
        wait_cause(lab, "one_way")
    wait_well(lab)


@FAST
def test_programs_pass_a_firewall_and_a_daemon_that_hangs(lab: Lab) -> None:
    """Both are faults without programs. With them the peer answers on."""
    wait_well(lab)
    assert lab.other is not None
    with firewall(lab, f"udp dport {PORT} counter reject"):
        wait_answers(lab)
        lab.other.send_signal(signal.SIGSTOP)
        try:
            wait_answers(lab)
        finally:
            lab.other.send_signal(signal.SIGCONT)
        assert "packets 0 " in lab.b.ns.run("nft", "list table inet probes")
    wait_well(lab)
