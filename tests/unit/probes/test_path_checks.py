"""Results that follow from the observations of a peer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.path_checks import VARIANTS, Datagrams, Seen, Transfer, Variant, judge
from vxland.probes.reach import Cause, Reach
from vxland.wire.path_check import BadChecksums

LEASE = Lease(ip_network("10.244.1.0/24"), Vtep(ip_address("192.168.111.129"), Mac(2)))
UP = Reach("reachable", rtt_s=0.001, full_mtu="passes")
DOWN = Reach("unreachable", cause=Cause("silent", "nothing comes from it", "look there"))
WELL = Seen(
    reach=UP,
    datagrams=Datagrams(frozenset(VARIANTS), full_len=1450),
    transfer=Transfer("done", sent_len=100, back_len=100),
    mtu=1450,
    port=9473,
)
NOTHING = replace(WELL, datagrams=Datagrams(), transfer=Transfer("silent"))


def outcomes(seen: Seen) -> str:
    """Return the outcomes of ping, mtu, udp, tcp and checksum: + passed, x failed, - skipped."""
    signs = {"passed": "+", "failed": "x", "skipped": "-"}
    checks = judge(LEASE, seen).checks
    return "".join(signs[checks[name].outcome] for name in ("ping", "mtu", "udp", "tcp", "checksum"))


def without(*names: Variant) -> Seen:
    """Return what is seen when these datagrams are not answered."""
    return replace(WELL, datagrams=Datagrams(frozenset(VARIANTS) - set(names), full_len=1450))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (WELL, "+++++"),
        (without("there", "both", "full"), "++x+x"),
        (without("back", "both", "full"), "++x+x"),
        (without("full"), "++x++"),
        (without("bare"), "+++++"),
        (without("bare", "there"), "+++++"),
        (without("there", "back"), "+++++"),
        (without("both", "full"), "++x+-"),
        (without("bare", "both"), "++x+-"),
        (without(*VARIANTS), "++x+-"),
        (replace(WELL, transfer=Transfer("stalled")), "+++x+"),
        (replace(WELL, transfer=Transfer("stalled"), bad_there=BadChecksums(tcp=3)), "+++xx"),
        (replace(WELL, transfer=Transfer("silent"), bad_there=BadChecksums(tcp=3)), "+++xx"),
        (replace(WELL, transfer=Transfer("stalled"), bad_here=BadChecksums(tcp=3)), "+++xx"),
        (
            replace(WELL, transfer=Transfer("done", sent_len=1 << 17, sent_again=2), bad_here=BadChecksums(tcp=3)),
            "++++x",
        ),
        (replace(WELL, bad_there=BadChecksums(tcp=3), bad_here=BadChecksums(9, 9)), "+++++"),  # of others
        (replace(WELL, transfer=Transfer("done", sent_len=1 << 17, sent_again=23)), "+++++"),
        (replace(WELL, transfer=Transfer("done", sent_len=1 << 17, sent_again=24)), "+++x+"),
        (replace(WELL, transfer=Transfer("changed")), "+++x+"),
        (replace(WELL, transfer=Transfer("refused", "busy")), "+++x+"),
        (replace(WELL, transfer=Transfer("broken")), "+++x+"),
        (replace(WELL, reach=replace(UP, full_mtu="hole", cause=Cause("mtu_hole", "too big", "less"))), "+x+++"),
        (replace(WELL, reach=replace(UP, full_mtu="unknown")), "+x+++"),
        (replace(WELL, reach=Reach()), "x-+++"),
        (replace(WELL, reach=DOWN), "x-+++"),
        (replace(WELL, reach=Reach(), no_pings="not allowed"), "--+++"),
        (NOTHING, "++xx-"),
        (replace(NOTHING, datagrams=Datagrams(not_sent="no route")), "++xx-"),
        (replace(NOTHING, datagrams=Datagrams(refused=True)), "++---"),
        (replace(NOTHING, transfer=Transfer("refused")), "++---"),
        (replace(NOTHING, reach=DOWN), "x----"),
        (replace(NOTHING, reach=Reach(), no_pings="not allowed"), "--xx-"),
        (replace(NOTHING, direct=True), "++---"),
    ],
)
def test_outcomes(seen: Seen, expected: str) -> None:
    """Each check passes, fails or is skipped, by itself."""
    assert outcomes(seen) == expected
    assert judge(LEASE, seen).passed is ("x" not in expected and "+" in expected)


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (replace(WELL, dnat=Transfer("done")), "passed"),
        (replace(WELL, dnat=Transfer("stalled")), "failed"),
        (replace(WELL, dnat=Transfer("refused")), "failed"),
        (replace(WELL, dnat=Transfer(error="nft is not installed")), "skipped"),
        (replace(NOTHING, datagrams=Datagrams(refused=True), dnat=Transfer()), "skipped"),
        (replace(WELL, transfer=Transfer("stalled"), dnat=Transfer("stalled")), "failed"),
    ],
)
def test_dnat(seen: Seen, outcome: str) -> None:
    """A connection through nat rules is judged beside the direct one."""
    check = judge(LEASE, seen).checks["dnat"]
    assert check.outcome == outcome
    assert ("a direct connection passes" in check.happened) is (outcome == "failed" and seen.transfer.end == "done")


def test_every_failure_has_a_remedy() -> None:
    """Whatever ends a connection."""
    for end in ("refused", "silent", "stalled", "broken", "changed", "not_sent"):
        check = judge(LEASE, replace(WELL, transfer=Transfer(end))).checks["tcp"]
        assert check.outcome == "failed"
        assert check.happened
        assert check.remedy


def test_nothing_tested_is_not_passed() -> None:
    """A peer of which every check is skipped has not passed: there is neither permission to ping nor a responder."""
    seen = replace(NOTHING, reach=Reach(), no_pings="not allowed", datagrams=Datagrams(refused=True))
    assert outcomes(seen) == "-----"
    assert not judge(LEASE, seen).passed


@pytest.mark.parametrize(
    ("seen", "words", "remedy"),
    [
        (without("there", "both", "full"), "datagrams to 10.244.1.0 arrive only without a UDP checksum", "this node"),
        (without("back", "both", "full"), "datagrams from 10.244.1.0 arrive only without", "that node"),
        (
            replace(WELL, transfer=Transfer("stalled"), bad_there=BadChecksums(tcp=3)),
            "192.168.111.129 counted 3 TCP segments with a bad checksum",
            "this node",
        ),
    ],
)
def test_the_node_with_the_offload(seen: Seen, words: str, remedy: str) -> None:
    """Checksums are damaged where packets leave, which is the sending node of that direction."""
    check = judge(LEASE, seen).checks["checksum"]
    assert check.happened.startswith(words)
    assert check.remedy.endswith(f"ethtool -K DEV tx off) of the devices that the packets leave by on {remedy}")


def test_checksums_are_the_reason_of_the_rest() -> None:
    """A device that damages checksums lost each SYN too, and the remedy was a firewall that nobody found."""
    seen = replace(without("there", "both", "full"), transfer=Transfer("silent"))
    tcp = judge(LEASE, seen).checks["tcp"]
    assert (tcp.happened, tcp.remedy) == ("no answer to SYN", "the result of checksum")
    tcp = judge(LEASE, replace(WELL, transfer=Transfer("silent"))).checks["tcp"]
    assert (tcp.happened, "firewall" in tcp.remedy) == ("no answer to SYN, though UDP passes", True)


def test_notes() -> None:
    """The matrix says why a peer was pinged only."""
    assert judge(LEASE, replace(NOTHING, datagrams=Datagrams(refused=True))).note == "no responder: ping only"
    assert judge(LEASE, replace(NOTHING, direct=True)).note == "DirectRouting, without the tunnel: ping only"
    assert judge(LEASE, replace(NOTHING, reach=DOWN)).note == "unreachable"
    assert judge(LEASE, WELL).note == ""
