"""Values of the configuration file that contradict one another: duplicates, overlaps, families."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.configs import DUAL, MAC1, MAC2, PEERS, SOUND, Problem, problems, text_of

PREFIX = "write it with its prefix length, such as 10.244.1.0/24"


ONLY_OTHERS = ", this node's; peers are the other nodes only"


def test_a_subnet_larger_than_the_network() -> None:
    """A subnet that contains the network is not part of it."""
    assert problems(text_of(SOUND, overlay__subnet="10.0.0.0/8", registry__peers=[])) == [
        ("overlay.subnet", "10.0.0.0/8", "use a part of 10.244.0.0/16, the overlay.network")
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"registry__peers__1__subnet": "10.244.1.0/24"},
            ("registry.peers[1].subnet", "10.244.1.0/24", "overlaps 10.244.1.0/24 of registry.peers[0].subnet"),
        ),
        (
            {"registry__peers__0__subnet": "10.244.2.128/25"},
            ("registry.peers[1].subnet", "10.244.2.0/24", "overlaps 10.244.2.128/25 of registry.peers[0].subnet"),
        ),
        (
            {"registry__peers__1__subnet": "10.244.0.64/26"},
            ("registry.peers[1].subnet", "10.244.0.64/26", f"overlaps 10.244.0.0/24 of overlay.subnet{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__mac": MAC2},
            ("registry.peers[1].mac", MAC2, "this is registry.peers[0].mac"),
        ),
        (
            {"registry__peers__1__mac": MAC1.upper()},
            ("registry.peers[1].mac", MAC1, f"this is overlay.mac{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__vtep": "192.168.111.129"},
            ("registry.peers[1].vtep", "192.168.111.129", "this is registry.peers[0].vtep"),
        ),
        (
            {"registry__peers__1__vtep": "192.168.111.128"},
            ("registry.peers[1].vtep", "192.168.111.128", f"this is underlay.address{ONLY_OTHERS}"),
        ),
        (
            {"registry__peers__1__vtep": "203.0.113.7"},
            ("registry.peers[1].vtep", "203.0.113.7", f"this is underlay.public_address{ONLY_OTHERS}"),
        ),
    ],
)
def test_duplicates(change: dict[str, object], problem: Problem) -> None:
    """Duplicates are the later entry's fault, and the remedy names the earlier one."""
    key, value, whose = problem
    (found,) = problems(text_of(SOUND, **change))
    assert found[:2] == (key, value)
    assert found[2].startswith("give each node a")
    assert found[2].endswith(whose)


def test_subnets_within_one_are_each_blamed_once() -> None:
    """Each later subnet inside a wide one is one problem, however deep they nest."""
    peers = [
        {"subnet": subnet, "vtep": f"192.168.111.{130 + at}", "mac": f"02:00:00:00:01:{at:02x}"}
        for at, subnet in enumerate(["10.244.16.0/20", "10.244.17.0/24", "10.244.17.128/25", "10.244.32.0/24"])
    ]
    found = problems(text_of(SOUND, registry__peers=peers))
    assert [key for key, _, _ in found] == ["registry.peers[1].subnet", "registry.peers[2].subnet"]
    assert all(remedy.endswith("overlaps 10.244.16.0/20 of registry.peers[0].subnet") for _, _, remedy in found)


def test_the_bound_address_may_be_advertised() -> None:
    """underlay.address and public_address may be equal."""
    assert problems(text_of(SOUND, underlay__public_address="192.168.111.128")) == []


def test_vteps_share_a_family() -> None:
    """All VTEPs have the IP family of underlay.address, or else of the first peer."""
    remedy = "use an IPv4 address, as underlay.address does: VTEPs share one family"
    assert problems(text_of(SOUND, registry__peers__1__vtep="fd00::3")) == [
        ("registry.peers[1].vtep", "fd00::3", remedy)
    ]
    remedy = "use an IPv4 address, as registry.peers[0].vtep does: VTEPs share one family"
    found = problems(text_of(SOUND, underlay=None, registry__peers__1__vtep="fd00::3"))
    assert found == [("registry.peers[1].vtep", "fd00::3", remedy)]


def test_a_vtep_inside_a_leased_subnet_is_refused() -> None:
    """Datagrams to it would be routed into the tunnel itself."""
    remedy = (
        "use an address outside 10.244.1.0/24 of registry.peers[0].subnet: else the tunnel would run through itself"
    )
    found = problems(text_of(SOUND, registry__peers__1__vtep="10.244.1.9"))
    assert found == [("registry.peers[1].vtep", "10.244.1.9", remedy)]


def test_dual_stack_mistakes() -> None:
    """A node has one subnet of each network."""
    both = ["10.244.0.0/24", "10.244.9.0/24"]
    assert problems(text_of(DUAL, overlay__subnet=both)) == [
        ("overlay.subnet", repr(both), "list at most one IPv4 and one IPv6 subnet")
    ]
    assert problems(text_of(DUAL, overlay__subnet="10.244.0.0/24")) == [
        ("overlay.subnet", "10.244.0.0/24", "add this node's part of fd00:10:244::/56, or remove that network")
    ]
    assert problems(text_of(DUAL, overlay__subnet=["10.244.0.0/24", "fd00:10:244::1"])) == [
        ("overlay.subnet[1]", "fd00:10:244::1", PREFIX)
    ]
    assert problems(text_of(DUAL, overlay__subnet=["10.244.0.0/24", "fd01::/64"])) == [
        ("overlay.subnet[1]", "fd01::/64", "use a part of fd00:10:244::/56, the overlay.network")
    ]
    assert problems(text_of(DUAL, overlay__mtu=1279)) == [
        ("overlay.mtu", 1279, "use 1280 or more: IPv6 needs it, RFC 8200 section 5")
    ]


def test_a_vni_too_long_for_a_device_name_needs_one() -> None:
    """flannel.10000000 has 16 characters; overlay.device can name a shorter one."""
    remedy = "name it, with at most 15 characters: flannel.10000000 would be too long"
    assert problems(text_of(SOUND, overlay__vni=10_000_000)) == [("overlay.device", None, remedy)]
    assert problems(text_of(SOUND, overlay__vni=10_000_000, overlay__device="vx0")) == []


def test_peers_keep_their_numbers_when_one_is_at_fault() -> None:
    """A problem between peers names their places in the file, also after a peer that could not be read."""
    found = problems(text_of(SOUND, registry__peers=[{"subnet": 1}, *PEERS, {**PEERS[0], "subnet": "10.244.9.0/24"}]))
    assert [key for key, _, _ in found if key.startswith("registry.peers[3]")] == [
        "registry.peers[3].mac",
        "registry.peers[3].vtep",
    ]


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(26, 30)), max_size=8))
def test_overlaps_agree_with_comparing_every_pair(drawn: list[tuple[int, int]]) -> None:
    """Exactly the peers whose subnet overlaps an earlier one are problems, however they nest."""
    subnets = [ip_network((int(ip_address("10.244.16.0")) + 16 * at, prefix), strict=False) for at, prefix in drawn]
    peers = [
        {"subnet": str(subnet), "vtep": f"192.168.112.{at + 1}", "mac": f"02:00:00:00:01:{at:02x}"}
        for at, subnet in enumerate(subnets)
    ]
    expected = {
        f"registry.peers[{at}].subnet"
        for at, subnet in enumerate(subnets)
        if any(subnet.overlaps(earlier) for earlier in subnets[:at])
    }
    assert {key for key, _, _ in problems(text_of(SOUND, registry__peers=peers))} == expected
