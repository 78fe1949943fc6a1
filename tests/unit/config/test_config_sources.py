"""Sources of nodes behind NAT, and the input filter: accepted values, and remedies of refused ones."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from vxland.config import parse
from vxland.model.errors import InvalidConfigError
from vxland.model.lease import Lease, Mac, Vtep

OWN, VTEP, MAC = "192.168.111.128", "203.0.113.9", "3a:87:cf:81:6a:ce"
WIDE = "use /{} or longer: any host with such an address may send as this node"


def text(**security: object) -> str:
    """Return the file of a static node with one peer."""
    return with_sources(None, security)


def with_sources(sources: object, security: object = None) -> str:
    """Return the same with these sources of the peer."""
    peer: dict[str, Any] = {"subnet": "10.244.1.0/24", "vtep": VTEP, "mac": MAC}
    return yaml.safe_dump(
        {
            "overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24"},
            "underlay": {"address": OWN},
            "registry": {"peers": [peer | ({} if sources is None else {"sources": sources})]},
            "security": security,
        }
    )


def of_a_store(**security: object) -> str:
    """Return the file of a node of a flannel cluster."""
    return yaml.safe_dump({"registry": {"kind": "etcd"}, "security": security})


def problem(text: str) -> tuple[str, str]:
    """Return key and remedy of the one problem of a text."""
    with pytest.raises(InvalidConfigError) as caught:
        parse(text)
    (found,) = caught.value.problems
    return found.key, found.remedy


def test_a_peers_sources_are_in_its_leases() -> None:
    """A peer's sources are an address, or a list of addresses and prefixes."""
    vtep = Vtep(ip_address(VTEP), Mac.parse(MAC))
    for written, read in (
        ("10.0.0.9", ["10.0.0.9/32"]),
        (["10.0.0.9", "198.51.100.0/28"], ["10.0.0.9/32", "198.51.100.0/28"]),
        ([], []),
    ):
        assert parse(with_sources(written)).peers == {
            Lease(ip_network("10.244.1.0/24"), vtep, tuple(map(ip_network, read)))
        }


@pytest.mark.parametrize(
    ("written", "where", "remedy"),
    [
        ("10.0.0.0/7", "", WIDE.format(8)),
        ("2001:db8::/31", "", WIDE.format(32)),
        ("10.0.0.9/24", "", "write 10.0.0.0/24: 10.0.0.9 has bits set after the prefix"),
        ("node2", "", "write an IPv4 or IPv6 address, such as 192.168.111.129"),
        ("255.255.255.255", "", "give the unicast address of one node's underlay interface"),
        (["10.0.0.9", "2001:db8::1"], "[1]", "use IPv4 sources, as vtep is"),
        (OWN, "", "remove it: underlay.address is this node's own"),
        ([f"10.0.0.{number}" for number in range(17)], "", "list at most 16, prefixes where there are more"),
    ],
)
def test_sources_that_are_refused(written: object, where: str, remedy: str) -> None:
    """Sources that are too wide, no address, of the other family, our own or too many are refused."""
    assert problem(with_sources(written)) == (f"registry.peers[0].sources{where}", remedy)


def test_sources_by_vtep() -> None:
    """With a store, security.sources is a mapping; with a static registry it is refused."""
    settings = parse(of_a_store(sources={VTEP: ["10.0.0.9", "198.51.100.0/28"], "2001:db8::7": "2001:db8:1::/48"}))
    assert dict(settings.security.sources) == {
        ip_address(VTEP): (ip_network("10.0.0.9"), ip_network("198.51.100.0/28")),
        ip_address("2001:db8::7"): (ip_network("2001:db8:1::/48"),),
    }
    key, remedy = problem(text(sources={VTEP: ["10.0.0.9"]}))
    assert key == "security.sources"
    assert remedy == "leave it out with registry.kind static: each peer in registry.peers has its own sources"


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ([VTEP], "write a mapping of VTEP addresses to lists of sources, such as {203.0.113.7: [10.0.0.9]}"),
        ({"node": ["10.0.0.9"]}, "node: write an IPv4 or IPv6 address, such as 192.168.111.129"),
        ({VTEP: []}, f"{VTEP}: list 1 to 16 sources, prefixes where there are more"),
        ({VTEP: "2001:db8::1"}, f"{VTEP}: use IPv4 sources, as the VTEP's address is"),
        ({VTEP: ["16.0.0.0/4"]}, f"{VTEP}: {WIDE.format(8)}"),
        (
            {f"10.1.{n >> 8}.{n & 255}": "10.0.0.9" for n in range(1, 4098)},
            "name at most 4096 VTEPs: give their nodes addresses of their own on the underlay",
        ),
    ],
)
def test_mappings_that_are_refused(written: object, remedy: str) -> None:
    """The remedy names the entry at fault."""
    assert problem(of_a_store(sources=written)) == ("security.sources", remedy)


def test_a_filter_needs_the_check() -> None:
    """With source_check off unknown senders are accepted; a filter against them contradicts that."""
    assert parse(text(input_filter="nftables")).security.input_filter == "nftables"
    assert problem(text(input_filter="nftables", source_check="off")) == (
        "security.input_filter",
        "write off, or security.source_check: vtep: it drops unknown senders",
    )
    assert parse(text(input_filter=False)).security.input_filter == "off"


def test_sources_are_reloaded_and_the_filter_is_not() -> None:
    """Their documentation says so."""
    old = parse(of_a_store())
    assert old.restart_needed(parse(of_a_store(sources={VTEP: "10.0.0.9"}, source_check="strict"))) == []
    assert [found.key for found in old.restart_needed(parse(of_a_store(input_filter="nftables")))] == [
        "security.input_filter"
    ]
