"""From evidence to a cause: the most telling piece decides, and less evidence says less."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import get_args

import pytest

from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.captured import Refusal
from vxland.probes.diagnosis import Evidence, of_hole, of_silence
from vxland.probes.reach import Trouble

MAC, OTHER = Mac.parse("3a:87:cf:81:6a:ce"), Mac.parse("02:00:00:00:00:99")
PEER = Lease(ip_network("10.244.1.0/24"), Vtep(ip_address("192.168.111.129"), MAC))
ROUTER = ip_address("192.168.111.1")

CASES = [
    (Evidence(not_sent="Operation not permitted", closed=True), "not_sent", "Operation not permitted"),
    (Evidence(direct=True, pinged=True, mac=OTHER), "pings_filtered", "past the tunnel"),
    (Evidence(direct=True), "silent", "past the tunnel"),
    (Evidence(closed=True, pinged=True), "port_closed", "UDP port 8472 is closed at 192.168.111.129"),
    (Evidence(mac=OTHER, heard=True), "mac_stale", str(OTHER)),
    (Evidence(mac=MAC, heard=True, pinged=True), "pings_filtered", "the tunnel works"),
    (Evidence(closed=True, heard=True), "refused", "a firewall rejects it"),
    (Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), pinged=True), "wrong_vni", "with VNI 2"),
    (
        Evidence(dropped=Refusal("own_mac", PEER.vtep.address, 1)),
        "own_mac",
        "as own_mac: the inner source is this node's own",
    ),
    (Evidence(dropped=Refusal("unknown_vtep", ROUTER, 1)), "unknown_vtep", "come from 192.168.111.1, which is no"),
    (Evidence(dropped=Refusal("unknown_vtep", ROUTER, 1), closed=True), "unknown_vtep", "come from 192.168.111.1,"),
    (Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), closed=True), "port_closed", "is closed at"),
    (
        Evidence(dropped=Refusal("inner_source_foreign", PEER.vtep.address, 1)),
        "inner_source_foreign",
        "does not belong",
    ),
    (Evidence(dropped=Refusal("i_flag_clear", PEER.vtep.address, 0)), "dropped_here", "as i_flag_clear: the header"),
    (Evidence(dropped=Refusal("wrong_vni", PEER.vtep.address, 2), heard=True), "one_way", "its frames come in"),
    (Evidence(refused="ICMP x", offender=PEER.vtep.address), "refused", "192.168.111.129 refuses"),
    (Evidence(refused="No route to host", offender=ROUTER), "refused", "192.168.111.1 refuses"),
    (Evidence(refused="No route to host"), "refused", "this node refuses"),
    (Evidence(heard=True, pinged=True), "one_way", "its frames come in"),
    (Evidence(pinged=True), "tunnel_filtered", "192.168.111.129 answers pings"),
    (Evidence(pinged=True), "tunnel_filtered", "the daemon there hangs or is stopped"),
    (Evidence(), "silent", "not even answers to pings"),
]


@pytest.mark.parametrize(("found", "word", "part"), CASES, ids=lambda case: str(case) if isinstance(case, str) else "")
def test_silence(found: Evidence, word: str, part: str) -> None:
    """Each piece of evidence has its word, and the sentence names what was seen."""
    cause = of_silence(PEER, 8472, found)
    assert cause.word == word
    assert part in cause.happened
    assert cause.remedy


@pytest.mark.parametrize(
    ("passes", "happened", "remedy"), [(0, "small ones do", "on every node"), (1350, "1350 octets do", "1350 or less")]
)
def test_hole(passes: int, happened: str, remedy: str) -> None:
    """What the underlay has to carry is told, and what passes where that is known."""
    cause = of_hole(1450, 50, passes)
    assert cause.word == "mtu_hole"
    assert cause.happened.endswith(happened)
    assert "1500" in cause.remedy
    assert cause.remedy.endswith(remedy)


def test_every_word_is_documented() -> None:
    """docs/metrics.md has a row for each, and no other; and there is no word without a case."""
    page = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?!gauge|counter)", page.partition("## Peers")[2], re.MULTILINE)
    assert tuple(rows) == get_args(Trouble)
    assert {word for _, word, _ in CASES} | {"mtu_hole"} == set(get_args(Trouble))
