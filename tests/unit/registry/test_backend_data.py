"""Backend data as Go reads it, and invalid data in its place."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Lease, Mac, Subnet, Vtep
from vxland.registry.backend_data import BackendData, build_data, foreign, judge, read_address, read_data
from vxland.registry.entries import Reading
from vxland.registry.go_json import read_object, write
from vxland.registry.net_conf import NetConf

MAC = Mac.parse("aa:bb:cc:dd:ee:ff")


def test_what_is_written_is_gos_to_the_byte() -> None:
    """Compact JSON: a later flanneld finds its MAC by splitting this text."""
    assert write(build_data(1, MAC)) == '{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}', BackendData(1, MAC)),
        ('{"VtepMAC": "AA:BB:CC:DD:EE:FF", "VNI": 1, "More": []}', BackendData(1, MAC)),
        ('{"vni":1,"vtepmac":"aa-bb-cc-dd-ee-ff"}', BackendData(1, MAC)),
        ('{"VNI":1,"VtepMAC":"aabb.ccdd.eeff"}', BackendData(1, MAC)),
        ('{"VtepMAC":"aa:bb:cc:dd:ee:ff"}', BackendData(0, MAC)),
        ('{"VNI":4096,"VtepMAC":""}', BackendData(4096, None)),
    ],
)
def test_backend_data_is_read_as_go_does(text: str, expected: BackendData) -> None:
    """Names may have any case, MACs any of Go's forms; an empty MAC is not yet known."""
    assert read_data(read_object(text, "data", ""), "data") == expected


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "{}",
        '{"VNI":1}',
        '{"VNI":1,"VtepMAC":null}',
        '{"VNI":"1","VtepMAC":"aa:bb:cc:dd:ee:ff"}',
        '{"VNI":16777216,"VtepMAC":"aa:bb:cc:dd:ee:ff"}',
        '{"VtepMAC":"aa:bb:cc:dd:ee"}',
        '{"VtepMAC":"00:00:00:00:00:00"}',
        '{"VtepMAC":"ff:ff:ff:ff:ff:ff"}',
        '{"VtepMAC":"aa:bb:cc:dd:ee:ff\\n"}',
        '{"VNI":' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_backend_data_is_refused_shortly(text: str) -> None:
    """The reason fits on one line, however long the text."""
    with pytest.raises(ConfigError, match=r"^data\.(VNI|VtepMAC): .{1,100}$"):
        read_data(read_object(text, "data", ""), "data")


@pytest.mark.parametrize(
    "text",
    [
        *("x", "", "fd00::1", str(IPv4Address(0)), "224.0.0.1", "255.255.255.255", "10.0.0.1/24", 7),
        *("127.0.0.1", "127.255.0.9", "240.0.0.1", "0.1.2.3"),
    ],
)
def test_a_vtep_has_the_ipv4_address_of_one_node(text: object) -> None:
    """Multicast, broadcast, Go's zero value, loopback and reserved addresses are refused."""
    with pytest.raises(ValueError, match="it is not"):
        read_address(text, 4)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1", "::1", "::ffff:192.0.2.1", "::", "ff02::1", "192.0.2.1"])
def test_a_vtep_has_the_ipv6_address_of_one_node(text: str) -> None:
    """Scoped, IPv4-mapped, multicast, link-local and loopback addresses are refused."""
    with pytest.raises(ValueError, match="it is not the IPv6 address of one node"):
        read_address(text, 6)


def test_each_ip_version_is_judged_for_itself() -> None:
    """An error in one leaves the other; a missing MAC is no problem."""
    subnet, address = ip_network("10.244.1.0/24"), ip_address("192.168.0.1")

    def claim(version: int) -> tuple[Subnet, Address, BackendData]:
        if version == 6:
            raise ValueError("no address")
        return subnet, address, BackendData(1, MAC)

    leases = {4: Lease(subnet, Vtep(address, MAC))}
    conf = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")), vni=1)
    other = NetConf(conf.networks, vni=7)
    assert judge([4, 6], claim, conf) == Reading(leases, frozenset({6}), "no address")
    assert judge([4], claim, other) == Reading(
        leases, unreachable="its VNI is 1 and ours 7: neither takes the other's frames"
    )
    assert judge([4], lambda _: (subnet, address, BackendData(1, None)), conf) == Reading(unread=frozenset({4}))


def test_a_vtep_inside_the_overlay_is_a_loop() -> None:
    """Datagrams to it would enter the tunnel again."""
    conf = NetConf((ip_network("10.244.0.0/16"),))
    claim = (ip_network("10.244.1.0/24"), ip_address("10.244.7.7"), BackendData(1, MAC))
    reading = judge([4], lambda _: claim, conf)
    assert reading.leases == {}
    assert reading.problem == "its VTEP address 10.244.7.7 lies in the overlay: no datagram could leave the tunnel"


def test_another_backend_is_named_shortly() -> None:
    """The text is untrusted input."""
    assert foreign("host-gw") == "its backend is 'host-gw': vxland reaches vxlan nodes only"
    assert len(foreign("\n" * 10_000)) < 300
