"""net-conf.json: errors, with flannel's texts where it has some."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.registry.net_confs import VXLAN, made, refused, refused_with

FOUR = "network must be able to accommodate at least four subnets"
BOUNDARY = "is not on a SubnetLen boundary"
V6: dict[str, Any] = {"EnableIPv6": True, "IPv6Network": "fd00::/56"}
UNKNOWN = "unknown backend type"


@pytest.mark.parametrize(
    ("keys", "key", "value", "flannel_says", "remedy"),
    [
        ({"SubnetLen": 31}, "SubnetLen", 31, "SubnetLen must be less than /31", "/31"),
        ({"SubnetLen": 17}, "SubnetLen", 17, FOUR, "write 18 or more"),
        (
            {"Network": "10.0.0.0/29"},
            "Network",
            "10.0.0.0/29",
            "network is too small. Minimum useful network prefix is /28",
            "/28",
        ),
        (
            {"SubnetMin": "10.243.0.0"},
            "SubnetMin",
            "10.243.0.0",
            "SubnetMin is not in the range of the Network",
            "write an address of 10.244.0.0/16",
        ),
        (
            {"SubnetMax": "10.245.0.0"},
            "SubnetMax",
            "10.245.0.0",
            "SubnetMax is not in the range of the Network",
            "write an address of 10.244.0.0/16",
        ),
        ({"SubnetMin": "10.244.1.5"}, "SubnetMin", "10.244.1.5", f"SubnetMin {BOUNDARY}", "write 10.244.1.0"),
        ({"SubnetMax": "10.244.9.5"}, "SubnetMax", "10.244.9.5", f"SubnetMax {BOUNDARY}", "write 10.244.9.0"),
        (
            {"SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"},
            "SubnetMin",
            "10.244.9.0",
            "",
            "write 10.244.8.0 or less: SubnetMax is 10.244.8.0, so that no subnet is left",
        ),
        (V6 | {"IPv6SubnetLen": 127}, "IPv6SubnetLen", 127, "SubnetLen must be less than /127", ""),
        (V6 | {"IPv6SubnetLen": 57}, "IPv6SubnetLen", 57, FOUR, "write 58 or more"),
        (
            V6 | {"IPv6Network": "fd00::/125"},
            "IPv6Network",
            "fd00::/125",
            "IPv6Network is too small. Minimum useful network prefix is /124",
            "",
        ),
        (
            V6 | {"IPv6SubnetMin": "fd01::"},
            "IPv6SubnetMin",
            "fd01::",
            "IPv6SubnetMin is not in the range of the IPv6Network",
            "write an address of fd00::/56",
        ),
        (V6 | {"IPv6SubnetMax": "fd00::5"}, "IPv6SubnetMax", "fd00::5", f"IPv6SubnetMax {BOUNDARY}", "write fd00::"),
    ],
)
def test_what_etcd_mode_refuses(keys: dict[str, Any], key: str, value: object, flannel_says: str, remedy: str) -> None:
    """Flannel's text with the value to write; without pools, as with Kubernetes, all of these are valid."""
    problem = refused_with(**keys)
    assert (problem.key, problem.value) == (f"net-conf.json: {key}", value)
    assert flannel_says in problem.remedy
    assert problem.remedy.endswith(remedy)
    assert made(**keys, pools=False).pools == {}


DEFINE = "please define a correct {} parameter in the flannel config, such as {}"
WRITE = '"Backend": {"Type": "vxlan"}'


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize(
    ("keys", "key", "value", "remedy"),
    [
        ({"Network": None}, "Network", None, DEFINE.format("Network", "10.244.0.0/16")),
        ({"Network": "0.0.0.0/0"}, "Network", "0.0.0.0/0", DEFINE.format("Network", "10.244.0.0/16")),
        ({"EnableIPv6": True}, "IPv6Network", None, DEFINE.format("IPv6Network", "fd00:10:244::/56")),
        ({"EnableIPv4": False}, "EnableIPv4", False, "none defined stack: write true here, or true for EnableIPv6"),
        ({"Network": "fd00::/56"}, "Network", "fd00::/56", "invalid IPv4 CIDR format: write one such as 10.244.0.0/16"),
        ({"Network": "10.0.0.0"}, "Network", "10.0.0.0", "invalid IPv4 CIDR format: write one such as 10.244.0.0/16"),
        (
            {"Network": "10.0.0.0/255.0.0.0"},
            "Network",
            "10.0.0.0/255.0.0.0",
            "invalid IPv4 CIDR format: write one such as 10.244.0.0/16",
        ),
        (
            V6 | {"IPv6Network": "10.0.0.0/8"},
            "IPv6Network",
            "10.0.0.0/8",
            "invalid CIDR address: write an IPv6 network, such as fd00:10:244::/56",
        ),
        ({"SubnetMin": "node1"}, "SubnetMin", "node1", "invalid IP address format: write an IPv4 one"),
        ({"SubnetMin": "fd00::1"}, "SubnetMin", "fd00::1", "invalid IP address format: write an IPv4 one"),
        ({"IPv6SubnetMin": 7}, "IPv6SubnetMin", 7, "invalid IP address format: write an IPv6 one"),
        (
            {"SubnetLen": "24"},
            "SubnetLen",
            "24",
            "write a whole number from 0 to 18446744073709551615, without quotes",
        ),
        ({"SubnetLen": -1}, "SubnetLen", -1, "write a whole number from 0 to 18446744073709551615, without quotes"),
        ({"SubnetLen": 24.0}, "SubnetLen", 24.0, "write a whole number from 0 to 18446744073709551615, without quotes"),
        ({"EnableIPv4": "true"}, "EnableIPv4", "true", "write true or false, without quotes"),
        ({"EnableIPv6": 1}, "EnableIPv6", 1, "write true or false, without quotes"),
        (
            {"Backend": "vxlan"},
            "Backend",
            "vxlan",
            f"error decoding Backend property of config: write {WRITE}",
        ),
        (
            {"Backend": None},
            "Backend",
            None,
            f"write {WRITE}: left out it means udp to flannel, and vxland supports vxlan alone",
        ),
        ({"Backend": {}}, "Backend.Type", "", f"{UNKNOWN}: write {WRITE}, which is the one that vxland supports"),
        (
            {"Backend": {"Type": "host-gw"}},
            "Backend.Type",
            "host-gw",
            f"{UNKNOWN}: write {WRITE}, which is the one that vxland supports",
        ),
        ({"Backend": {"Type": 1}}, "Backend.Type", 1, "write text, in quotes"),
        (
            {"Backend": VXLAN | {"VNI": 1 << 24}},
            "Backend.VNI",
            1 << 24,
            "error decoding VXLAN backend config: write a whole number from 0 to 16777215, without quotes",
        ),
        (
            {"Backend": VXLAN | {"Port": 74008}},
            "Backend.Port",
            74008,
            "error decoding VXLAN backend config: write a whole number from 0 to 65535, without quotes",
        ),
        (
            {"Backend": VXLAN | {"GBP": "yes"}},
            "Backend.GBP",
            "yes",
            "error decoding VXLAN backend config: write true or false, without quotes",
        ),
        (
            {"Backend": VXLAN | {"MTU": 117}},
            "Backend.MTU",
            117,
            "write the underlay's MTU, 118 to 65535, or leave it out: the pods have 50 less, or 70 over IPv6",
        ),
        (
            V6 | {"Backend": VXLAN | {"MTU": 1349}},
            "Backend.MTU",
            1349,
            "write the underlay's MTU, 1350 to 65535, or leave it out: the pods have 50 less, or 70 over IPv6",
        ),
    ],
)
def test_what_both_modes_refuse(keys: dict[str, Any], key: str, value: object, remedy: str, *, pools: bool) -> None:
    """Errors have key, value and remedy, with flannel's text if it has one."""
    problem = refused_with(pools=pools, **keys)
    assert (problem.key, problem.value, problem.remedy) == (f"net-conf.json: {key}", value, remedy)


def test_a_wrong_type_is_fatal_even_if_a_later_one_is_right() -> None:
    """As in Go, which returns the first such error at the end."""
    problem = refused('{"Network": 7, "Network": "10.0.0.0/16", "Backend": {"Type": "vxlan"}}')
    assert (problem.key, problem.value) == ("net-conf.json: Network", 7)


def test_no_backend_at_all() -> None:
    """Flannel's documentation has vxlan as the default, its code udp; so vxland requires the key."""
    problem = refused('{"Network": "10.244.0.0/16"}')
    assert (problem.key, problem.value) == ("net-conf.json: Backend", None)
    assert WRITE in problem.remedy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", "line 1, column 1: Expecting value"),
        ('{"Network": }', "line 1, column 13: Expecting value"),
        ('{"Network": "10.0.0.0/8"} x', "line 1, column 27: Extra data"),
        ('{"SubnetLen": NaN}', "NaN is no JSON"),
        ("[1]", "[...]"),
        ('"10.244.0.0/16"', "10.244.0.0/16"),
        ("\ufeff{}", None),
        ("[" * 100_000, None),
    ],
)
def test_what_is_no_object(text: str, value: object) -> None:
    """The source is the key, and the error has the line and column."""
    problem = refused(text)
    assert problem.key == "net-conf.json"
    assert value is None or problem.value == value


def test_null_is_an_object_that_says_nothing() -> None:
    """Go keeps the defaults, which have no network."""
    assert refused("null").key == "net-conf.json: Network"


def test_long_values_are_shown_in_short() -> None:
    """The error is still one line."""
    assert refused_with(Network="x" * 9000).value == "x" * 80 + "..."
    assert refused_with(Network={"a": "x" * 9000}).value == "{...}"
    assert refused('{"SubnetLen": 1' + "0" * 9000 + "}").key == "net-conf.json: SubnetLen"
