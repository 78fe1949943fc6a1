"""Keys and values of flannel's etcd registry, to the byte as flannel writes them, and invalid ones."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.lease import Lease, Mac, Vtep
from vxland.registry.entries import Reading
from vxland.registry.etcd.formats import build_key, build_value, parse_key, read
from vxland.registry.net_conf import NetConf

CONF = NetConf((ip_network("10.0.0.0/8"), ip_network("fd00:12::/32")))
V4 = Vtep(IPv4Address("192.168.64.3"), Mac.parse("c6:d2:32:6f:8f:44"))
V6 = Vtep(IPv6Address("fd00:192:168::3"), Mac.parse("fa:d2:32:6f:8f:45"))
S4, S6 = ip_network("10.12.13.0/24"), ip_network("fd00:12:13::/56")
V4_TEXT = (
    b'{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}'
)
DUAL_TEXT = (
    b'{"PublicIP":"192.168.64.3","PublicIPv6":"fd00:192:168::3","BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},'
    b'"BackendV6Data":{"VNI":1,"VtepMAC":"fa:d2:32:6f:8f:45"}}'
)


def changed(**fields: Any) -> bytes:  # noqa: ANN401  (anything that JSON holds)
    """Return the IPv4 value with other fields; None omits one."""
    values = json.loads(V4_TEXT) | fields
    return json.dumps({name: value for name, value in values.items() if value is not None}).encode()


def test_values_are_flannels() -> None:
    """Go's order of fields, no blanks, null for no IPv6."""
    assert build_value({4: V4}, 1) == V4_TEXT
    assert build_value({6: V6, 4: V4}, 1) == DUAL_TEXT


def test_keys_are_flannels() -> None:
    """A dash replaces the slash, and one key has both subnets; parsing is the inverse."""
    assert build_key({4: ip_network("10.5.52.0/24")}) == "10.5.52.0-24"
    assert build_key({6: S6, 4: S4}) == "10.12.13.0-24&fd00:12:13::-56"
    assert parse_key("10.5.52.0-24") == (ip_network("10.5.52.0/24"),)
    assert parse_key("10.12.13.0-24&fd00:12:13::-56") == (S4, S6)


@pytest.mark.parametrize(
    "key",
    ["", "10.5.52.0", "10.5.52.0/24", "10.5.52.0-32", "10.5.52.0-0", "10.5.52.1-24", "300.5.52.0-24", "fd00::-64",
     "x10.5.52.0-24", "10.5.52.0-24&", "10.5.52.0-24&fd00::-128", "10.5.52.0-24&fd00::1-64", "224.0.0.0-24",
     "10.5.52.0-24&10.6.0.0-24", "10.5.52.0-24\n", "10.5.52.0-٢٤"],
)  # fmt: skip
def test_other_keys_are_refused(key: str) -> None:
    """At most 31 and 127 bits, as in flannel; unlike flannel, vxland checks the whole key."""
    with pytest.raises(ValueError, match=r"key|prefix length|subnet|multicast"):
        parse_key(key)


def test_a_value_gives_a_lease_for_each_family() -> None:
    """Each has its own address and MAC."""
    assert read(build_key({4: S4}), V4_TEXT, CONF).reading == Reading({4: Lease(S4, V4)})
    dual = read(build_key({4: S4, 6: S6}), DUAL_TEXT, CONF)
    assert dual.reading == Reading({4: Lease(S4, V4), 6: Lease(S6, V6)})


def test_a_family_that_the_network_does_not_have_is_passed_over() -> None:
    """An IPv4 network uses the IPv4 half; the key claims both subnets."""
    half = read(build_key({4: S4, 6: S6}), DUAL_TEXT, NetConf(CONF.networks[:1]))
    assert (half.reading, half.subnets) == (Reading({4: Lease(S4, V4)}), (S4, S6))


def test_gos_json_is_lenient() -> None:
    """Names in any case, unknown names, blanks, and repeated names."""
    text = V4_TEXT.decode().replace("PublicIP", "publicip").replace("VtepMAC", "VTEPmac").replace(",", " , \n")
    more = text.replace("{", '{"New":[1],', 1).encode()
    assert read("10.12.13.0-24", more, CONF).reading == Reading({4: Lease(S4, V4)})
    twice = V4_TEXT.replace(b"{", b'{"PublicIP":"192.168.64.9",', 1)
    assert read("10.12.13.0-24", twice, CONF).reading == Reading({4: Lease(S4, V4)})


def test_half_a_value_gives_half_its_leases() -> None:
    """An error in IPv6 leaves the IPv4 lease, and keeps the last IPv6 lease."""
    value = DUAL_TEXT.replace(b"fa:d2", b"fb:d2")
    problem = "BackendV6Data.VtepMAC: 'fb:d2:32:6f:8f:45': it is not the MAC of one device"
    reading = read(build_key({4: S4, 6: S6}), value, CONF).reading
    assert reading == Reading({4: Lease(S4, V4)}, frozenset({6}), problem)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"\xff\xfe", "value: "),
        (b"7", "value: 7: it is not such as "),
        (b"[" * 100_000, "value: "),
        (changed(PublicIP=None), "PublicIP: None: it is missing"),
        (changed(PublicIP="0.0.0.0"), "PublicIP: None: it is missing"),  # noqa: S104  (Go's zero value)
        (changed(PublicIP=["10.0.0.1"]), "PublicIP: '[...]': "),
        (changed(PublicIP="fd00::1"), "PublicIP: 'fd00::1': it is not the IPv4 address of one node"),
        (changed(PublicIP="255.255.255.255"), "it is not the IPv4 address of one node"),
        (changed(PublicIPv6="fe80::1%eth0"), "it is not the IPv6 address of one node"),
        (changed(BackendType=7), "BackendType: 7: write text"),
        (changed(BackendData=None), "BackendData.VtepMAC: None: it is missing"),
        (changed(BackendData="c6:d2:32:6f:8f:44"), "it is not an object"),
        (changed(BackendData={"VNI": 1 << 24, "VtepMAC": "c6:d2:32:6f:8f:44"}), "BackendData.VNI: 16777216: "),
        (changed(BackendData={"VNI": 1, "VtepMAC": "00:00:00:00:00:00"}), "it is not the MAC of one device"),
        (changed(BackendData={"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f"}), "it is not a MAC address"),
    ],
)
def test_what_is_wrong_is_named_and_ends_nothing(value: bytes, problem: str) -> None:
    """The last lease stays until the value is valid; the subnet is claimed, whatever the value."""
    claim = read("10.12.13.0-24", value, CONF)
    assert problem in claim.reading.problem
    assert len(claim.reading.problem) < 500
    assert claim.subnets == (S4,)
    assert claim.reading == Reading(unread=frozenset({4}), problem=claim.reading.problem)


@pytest.mark.parametrize("key", ["10.12.13.0-24&fe80::-64", "11.0.0.0-24", "8.0.0.0-5"])
def test_a_subnet_outside_the_network_is_a_problem(key: str) -> None:
    """It would draw away traffic that is not the overlay's; the address names the owner, who can delete it."""
    claim = read(key, V4_TEXT, CONF)
    assert "is outside the network" in claim.reading.problem
    assert (claim.reading.leases, claim.public) == ({}, {4: V4.address})


def test_no_mac_yet_is_no_problem() -> None:
    """A Windows node fills it in later."""
    claim = read("10.12.13.0-24", changed(BackendData={"VNI": 1, "VtepMAC": ""}), CONF)
    assert claim.reading == Reading(unread=frozenset({4}))


def test_another_backend_is_no_problem_and_no_peer() -> None:
    """Its data may be anything; `vxlan` may have any case."""
    claim = read("10.12.13.0-24", changed(BackendType="host-gw", BackendData=[7]), CONF)
    odd = "its backend is 'host-gw': vxland reaches vxlan nodes only"
    assert (claim.backend, claim.reading) == ("host-gw", Reading(unreachable=odd))
    assert read("10.12.13.0-24", changed(BackendType="VXLAN"), CONF).reading == Reading({4: Lease(S4, V4)})


def test_a_reservation_says_nothing_of_its_node() -> None:
    """It has an address and no backend."""
    claim = read("10.12.13.0-24", b'{"PublicIP":"192.168.64.3"}', CONF)
    assert (claim.public, claim.backend, claim.reading) == ({4: V4.address}, "", Reading(unread=frozenset({4})))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["PublicIP", "publicipV6", "BackendType", "BackendData", "BackendV6Data", "VNI", "VtepMAC"])
_values = st.dictionaries(
    _names, _json | st.sampled_from(["vxlan", "10.1.1.1"]) | st.dictionaries(_names, _json), max_size=5
)
_keys = st.text(max_size=40) | st.sampled_from(["10.12.13.0-24", "10.12.13.0-24&fd00:12:13::-56"]) | st.from_regex(
    r"[\d.]{1,15}-\d{1,3}&?[a-f\d:]*-?\d*", fullmatch=True
)  # fmt: skip


@given(_keys, st.binary(max_size=200) | _values.map(lambda value: json.dumps(value).encode()))
def test_nothing_that_is_written_there_raises(key: str, value: bytes) -> None:
    """For any key and value, the leases are inside the subnets that the key claims."""
    claim = read(key, value, CONF)
    assert {lease.subnet for lease in claim.reading.leases.values()} <= set(claim.subnets)
    assert not claim.reading.leases.keys() & claim.reading.unread
