"""Evidence leads to a cause: the strongest piece decides, and less evidence says less."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import get_args

import pytest

from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.captured import Refusal
from vxland.probes.diagnosis import Evidence, diagnose_mtu_hole, diagnose_silence
from vxland.probes.reach import CauseLabel

MAC, OTHER = Mac.parse("3a:87:cf:81:6a:ce"), Mac.parse("02:00:00:00:00:99")
PEER = Lease(ip_network("10.244.1.0/24"), Vtep(ip_address("192.168.111.129"), MAC))
ROUTER = ip_address("192.168.111.1")

CASES = [
    (Evidence(not_sent="Operation not permitted", port_unreachable=True), "not_sent", "Operation not permitted"),
    (Evidence(direct=True, answers_ping=True, mac=OTHER), "pings_filtered", "without the tunnel"),
    (Evidence(direct=True), "silent", "bypass the tunnel"),
    (Evidence(port_unreachable=True, answers_ping=True), "port_closed", "UDP port 8472 is closed at 192.168.111.129"),
    (Evidence(mac=OTHER, frames_arrive=True), "mac_stale", str(OTHER)),
    (Evidence(mac=MAC, frames_arrive=True, answers_ping=True), "pings_filtered", "the tunnel works"),
    (Evidence(port_unreachable=True, frames_arrive=True), "refused", "a firewall rejects it"),
    (Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), answers_ping=True), "wrong_vni", "with VNI 2"),
    (
        Evidence(dropped=Refusal("own_mac", PEER.vtep.address, 1)),
        "own_mac",
        "as own_mac: the inner source is this node's own",
    ),
    (Evidence(dropped=Refusal("unknown_vtep", ROUTER, 1)), "unknown_vtep", "come from 192.168.111.1, which is no"),
    (
        Evidence(dropped=Refusal("unknown_vtep", ROUTER, 1), port_unreachable=True),
        "unknown_vtep",
        "come from 192.168.111.1,",
    ),
    (
        Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), port_unreachable=True),
        "port_closed",
        "is closed at",
    ),
    (
        Evidence(dropped=Refusal("inner_source_foreign", PEER.vtep.address, 1)),
        "inner_source_foreign",
        "does not belong",
    ),
    (Evidence(dropped=Refusal("i_flag_clear", PEER.vtep.address, 0)), "dropped_here", "as i_flag_clear: the header"),
    (Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), frames_arrive=True), "one_way", "its frames arrive"),
    (Evidence(icmp_error="ICMP x", offender=PEER.vtep.address), "refused", "192.168.111.129 refuses"),
    (Evidence(icmp_error="No route to host", offender=ROUTER), "refused", "192.168.111.1 refuses"),
    (Evidence(icmp_error="No route to host"), "refused", "this node refuses"),
    (Evidence(frames_arrive=True, answers_ping=True), "one_way", "its frames arrive"),
    (Evidence(answers_ping=True), "tunnel_filtered", "192.168.111.129 answers pings"),
    (Evidence(answers_ping=True), "tunnel_filtered", "the daemon there hangs or is stopped"),
    (Evidence(answers_ping=True), "tunnel_filtered", "or a device damages the checksums"),
    (Evidence(unresolved=True), "silent", "nothing on the link has the address 192.168.111.129"),
    (Evidence(), "silent", "not even answers to pings"),
    (Evidence(queried=False), "silent", "cannot query it: the underlay is in another network namespace"),
]


@pytest.mark.parametrize(("found", "label", "part"), CASES, ids=lambda case: str(case) if isinstance(case, str) else "")
def test_silence(found: Evidence, label: str, part: str) -> None:
    """Each piece of evidence has its label, and the sentence names the finding."""
    cause = diagnose_silence(PEER, 8472, found)
    assert cause.label == label
    assert part in cause.happened
    assert cause.remedy


@pytest.mark.parametrize(
    ("passes", "happened", "remedy"), [(0, "small ones do", "on every node"), (1350, "1350 bytes do", "1350 or less")]
)
def test_hole(passes: int, happened: str, remedy: str) -> None:
    """The remedy names the MTU that the underlay needs, and the size that passes if it is known."""
    cause = diagnose_mtu_hole(1450, 50, passes)
    assert cause.label == "mtu_hole"
    assert cause.happened.endswith(happened)
    assert "1500" in cause.remedy
    assert cause.remedy.endswith(remedy)


def test_every_label_is_documented() -> None:
    """docs/metrics.md has a row for each and no other, and each has a case here."""
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?!gauge|counter)", page.partition("## Peers")[2], re.MULTILINE)
    assert tuple(rows) == get_args(CauseLabel)
    assert {label for _, label, _ in CASES} | {"mtu_hole"} == set(get_args(CauseLabel))
