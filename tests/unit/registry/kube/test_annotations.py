"""flannel's annotations, to the byte, and invalid ones in their place."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from vxland.model.errors import ConfigError
from vxland.model.lease import Mac, Vtep
from vxland.registry.kube.annotations import (
    Names,
    annotations_of,
    chosen_addresses,
    overwrites,
    pod_subnets,
    render,
    stored_macs,
)

A = "flannel.alpha.coreos.com/"
NAMES = Names.under("flannel.alpha.coreos.com")
MAC = Mac.parse("aa:bb:cc:dd:ee:ff")


def test_what_a_node_publishes_is_flannels_to_the_byte() -> None:
    """Compact JSON: a later flanneld finds its MAC by splitting this text."""
    assert render(NAMES, 1, {4: Vtep(ip_address("192.168.111.128"), MAC)}) == {
        A + "kube-subnet-manager": "true",
        A + "backend-type": "vxlan",
        A + "backend-data": '{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}',
        A + "public-ip": "192.168.111.128",
    }


def test_a_dual_stack_node_publishes_both_families() -> None:
    """Each family has its data and its address; IPv6 is compressed and in lower case, as in Go."""
    v6 = Vtep(ip_address("FD00:192:168:0::80"), Mac.parse("AA:BB:CC:DD:EE:00"))
    assert render(NAMES, 4096, {4: Vtep(ip_address("192.168.111.128"), MAC), 6: v6}) == {
        A + "kube-subnet-manager": "true",
        A + "backend-type": "vxlan",
        A + "backend-data": '{"VNI":4096,"VtepMAC":"aa:bb:cc:dd:ee:ff"}',
        A + "public-ip": "192.168.111.128",
        A + "backend-v6-data": '{"VNI":4096,"VtepMAC":"aa:bb:cc:dd:ee:00"}',
        A + "public-ipv6": "fd00:192:168::80",
    }


@pytest.mark.parametrize(
    ("prefix", "start"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/"),
        ("flannel.alpha.coreos.com/blue", "flannel.alpha.coreos.com/blue-"),
        ("flannel.alpha.coreos.com/blue-", "flannel.alpha.coreos.com/blue-"),
        ("a.b/c_d-e", "a.b/c_d-e-"),
    ],
)
def test_a_prefix_is_completed_as_flannel_does(prefix: str, start: str) -> None:
    """A host name gets a slash, the start of a name gets a hyphen."""
    names = Names.under(prefix)
    assert names.managed == f"{start}kube-subnet-manager"
    assert names.families[6].data == f"{start}backend-v6-data"
    assert names.families[6].node_public_ip == f"{start}node-public-ipv6"
    assert names.families[4].overwrite == f"{start}public-ip-overwrite"


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("a.b/c/d", "prefix can contain at most single slash"),
        ("host", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
        ("", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
        ("a.b/C", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
        ("A.b/c", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
        ("a.b/c\n", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
        ("a b.c", "prefix must be in a format: fqdn/[0-9a-z-_]*"),
    ],
)
def test_a_wrong_prefix_is_refused_in_flannels_words(prefix: str, remedy: str) -> None:
    """The key is the setting's."""
    with pytest.raises(ConfigError) as caught:
        Names.under(prefix)
    assert (caught.value.key, caught.value.value, caught.value.remedy) == ("kube.annotation_prefix", prefix, remedy)


@pytest.mark.parametrize(
    ("spec", "subnets"),
    [
        ({}, []),
        ({"podCIDR": ""}, []),
        ({"podCIDR": "10.244.1.0/24"}, ["10.244.1.0/24"]),
        ({"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.1.0/24"]}, ["10.244.1.0/24"]),
        ({"podCIDR": "10.244.9.0/24", "podCIDRs": []}, ["10.244.9.0/24"]),
        ({"podCIDRs": ["10.244.1.0/24", "fd00::/64"]}, ["10.244.1.0/24", "fd00::/64"]),
        ({"podCIDRs": ["fd00::/64", "10.244.1.0/24"]}, ["10.244.1.0/24", "fd00::/64"]),
        ({"podCIDRs": ["10.244.1.0/24", "10.244.2.0/24"]}, ["10.244.2.0/24"]),
        ({"podCIDRs": ["10.244.1.7/24"]}, ["10.244.1.0/24"]),
    ],
)
def test_pod_subnets_are_the_last_of_each_family(spec: Mapping[str, Any], subnets: list[str]) -> None:
    """The list precedes the single one, and host bits are cleared, as by Go's ParseCIDR."""
    assert pod_subnets({"spec": spec}) == {net.version: net for net in map(ip_network, subnets)}


@pytest.mark.parametrize(
    "cidr",
    ["10.244.1.0", "10.244.1.0/255.255.255.0", "10.244.1.0/33", "x/24", "fe80::%eth0/64", "/24", "", 7, None, {}],
)
def test_what_is_no_pod_subnet_is_refused(cidr: object) -> None:
    """Go accepts neither netmasks nor bare addresses, which Python would accept."""
    with pytest.raises(ValueError, match="is not a subnet"):
        pod_subnets({"spec": {"podCIDRs": [cidr]}})


def test_three_pod_subnets_are_refused() -> None:
    """There can be one of IPv4 and one of IPv6."""
    with pytest.raises(ValueError, match="3 podCIDRs"):
        pod_subnets({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]}})


def test_macs_are_found_again() -> None:
    """Flanneld's and vxland's are found; invalid ones are ignored."""
    texts = {A + "backend-data": '{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}', A + "backend-v6-data": "null"}
    assert stored_macs(texts, NAMES) == {4: MAC}
    assert stored_macs({}, NAMES) == {}


def test_an_administrators_addresses_are_found() -> None:
    """Each family has its own; an empty one is ignored."""
    texts = {
        A + "node-public-ip": "192.0.2.1",
        A + "node-public-ipv6": "2001:db8::1",
        A + "public-ip-overwrite": "203.0.113.7",
        A + "public-ipv6-overwrite": "",
    }
    assert chosen_addresses(texts, NAMES) == {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
    assert overwrites(texts, NAMES) == {4: ip_address("203.0.113.7")}


@pytest.mark.parametrize("text", ["here", "2001:db8::1", "10.0.0.1/24"])
def test_an_administrators_wrong_address_is_an_error(text: str) -> None:
    """It names the annotation, the value and the remedy."""
    with pytest.raises(ConfigError) as caught:
        chosen_addresses({A + "node-public-ip": text}, NAMES)
    assert (caught.value.key, caught.value.value) == (A + "node-public-ip", text)
    assert "IPv4 address" in caught.value.remedy


@pytest.mark.parametrize("node", [None, [], "x", {}, {"metadata": []}, {"metadata": {"annotations": 7}}])
def test_a_node_without_annotations_has_none(node: object) -> None:
    """Any other value in their place counts as none."""
    assert annotations_of(node) == {}
