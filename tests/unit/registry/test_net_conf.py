"""net-conf.json by Go's rules and with flannel's checks: values, defaults, and the errors people know."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.errors import ConfigError
from vxland.registry import net_conf
from vxland.registry.net_conf import NetConf, Pool, parse

VXLAN = {"Type": "vxlan"}


def made(*, pools: bool = True, **keys: Any) -> NetConf:  # noqa: ANN401  (what JSON can hold)
    """NetConf of an object with these keys; network and backend are given where they are not among them."""
    return parse(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), "net-conf.json", pools=pools)


def refused(text: str, *, pools: bool = True) -> ConfigError:
    """Why a text is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "net-conf.json", pools=pools)
    return caught.value


def refused_with(*, pools: bool = True, **keys: Any) -> ConfigError:  # noqa: ANN401  (what JSON has)
    """Why an object with these keys is refused."""
    return refused(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), pools=pools)


def test_kube_flannels_own() -> None:
    """The ConfigMap of kube-flannel.yml: all that it leaves out has flannel's default."""
    text = '{\n  "Network": "10.244.0.0/16",\n  "EnableNFTables": false,\n  "Backend": {\n    "Type": "vxlan"\n  }\n}\n'
    assert parse(text, "net-conf.json", pools=False) == NetConf(
        networks=(ip_network("10.244.0.0/16"),),
        pools={},
        vni=1,
        port=8472,
        mtu=None,
        direct_routing=False,
        nftables=False,
        ignored=(),
    )


def test_every_key() -> None:
    """Nothing is lost on the way; IPv4 comes first."""
    conf = made(
        EnableIPv6=True,
        EnableNFTables=True,
        Network="10.0.0.0/8",
        SubnetLen=20,
        SubnetMin="10.10.0.0",
        SubnetMax="10.99.0.0",
        IPv6Network="fd00::/48",
        IPv6SubnetLen=60,
        IPv6SubnetMin="fd00:0:0:10::",
        IPv6SubnetMax="fd00:0:0:fff0::",
        Backend={
            "Type": "vxlan",
            "VNI": 4096,
            "Port": 4789,
            "MTU": 9000,
            "GBP": True,
            "Learning": True,
            "DirectRouting": True,
            "MacPrefix": "0E-2A",
            "Name": "flannel.4096",
        },
    )
    v4, v6 = ip_network("10.0.0.0/8"), ip_network("fd00::/48")
    assert conf == NetConf(
        networks=(v4, v6),
        pools={
            4: Pool(v4, 20, ip_address("10.10.0.0"), ip_address("10.99.0.0")),
            6: Pool(v6, 60, ip_address("fd00:0:0:10::"), ip_address("fd00:0:0:fff0::")),
        },
        vni=4096,
        port=4789,
        mtu=9000,
        direct_routing=True,
        nftables=True,
        ignored=("GBP", "Learning"),
    )


@pytest.mark.parametrize(
    ("network", "length", "first", "last"),
    [
        ("10.244.0.0/16", 24, "10.244.1.0", "10.244.255.0"),
        ("10.0.0.0/22", 24, "10.0.1.0", "10.0.3.0"),
        ("10.0.0.0/23", 25, "10.0.0.128", "10.0.1.128"),
        ("10.0.0.16/28", 30, "10.0.0.20", "10.0.0.28"),
        ("fd00::/56", 64, "fd00:0:0:1::", "fd00:0:0:ff::"),
        ("fd00::/62", 64, "fd00:0:0:1::", "fd00:0:0:3::"),
        ("fd00::/63", 65, "fd00:0:0:0:8000::", "fd00:0:0:1:8000::"),
        ("fd00::/124", 126, "fd00::4", "fd00::c"),
    ],
)
def test_pools_by_default(network: str, length: int, first: str, last: str) -> None:
    """/24 and /64 where four of them fit, else quarters; the network's first subnet is left out."""
    name = "IPv6Network" if ":" in network else "Network"
    keys: dict[str, Any] = {"EnableIPv6": name == "IPv6Network", name: network}
    conf = made(**keys)
    of = ip_network(network)
    assert conf.pools[of.version] == Pool(of, length, ip_address(first), ip_address(last))


def test_host_bits_of_the_network_are_masked() -> None:
    """As net.ParseCIDR does."""
    conf = made(Network="10.244.7.9/16", EnableIPv6=True, IPv6Network="fd00::9/56")
    assert conf.networks == (ip_network("10.244.0.0/16"), ip_network("fd00::/56"))


def test_all_zero_bounds_are_as_good_as_none() -> None:
    """Zero values of Go; the same of SubnetLen and Port."""
    conf = made(SubnetMin="0.0.0.0", SubnetMax="0.0.0.0", SubnetLen=0, Backend=VXLAN | {"Port": 0})  # noqa: S104  (nothing is bound)
    assert conf == made()
    six: dict[str, Any] = {"EnableIPv6": True, "IPv6Network": "fd00::/56"}
    assert made(**six, IPv6SubnetMin="::", IPv6SubnetMax="::") == made(**six)


def test_only_ipv6() -> None:
    """EnableIPv4 may be off; the IPv4 network is not looked at then."""
    conf = made(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd00::/56", pools=False)
    assert conf.networks == (ip_network("fd00::/56"),)


def test_names_in_any_case_and_the_last_of_two() -> None:
    """encoding/json: case does not matter, unknown names neither, and a later value replaces an earlier one."""
    text = """{"network": "10.1.0.0/16", "NETWORK": "10.2.0.0/16", "Network": null, "Comment": {"Network": 7},
               "BACKEND": {"type": "VXLAN", "vni": 3, "Vni": 4, "directRouting": true, "extra": []},
               "enableIPv6": true, "ipv6network": "fd00::/56"}"""
    conf = parse(text, "net-conf.json", pools=True)
    assert conf.networks == (ip_network("10.2.0.0/16"), ip_network("fd00::/56"))
    assert (conf.vni, conf.direct_routing) == (4, True)


def test_null_leaves_the_default() -> None:
    """As if the key were not there."""
    assert made(EnableIPv4=None, SubnetLen=None, SubnetMin=None, Backend=VXLAN | {"VNI": None}) == made()


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
    """The words of flannel, with what to write; without pools, as with Kubernetes, all of these are fine."""
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
    """Key, value and remedy; flannel's own words where it has some."""
    problem = refused_with(pools=pools, **keys)
    assert (problem.key, problem.value, problem.remedy) == (f"net-conf.json: {key}", value, remedy)


def test_a_wrong_type_is_fatal_even_if_a_later_one_is_right() -> None:
    """As in Go, which tells the first such error at the end."""
    problem = refused('{"Network": 7, "Network": "10.0.0.0/16", "Backend": {"Type": "vxlan"}}')
    assert (problem.key, problem.value) == ("net-conf.json: Network", 7)


def test_no_backend_at_all() -> None:
    """The documentation of flannel says vxlan, its code says udp: nobody can mean either, so it has to be written."""
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
    """The source is the key, and the place of a mistake is told."""
    problem = refused(text)
    assert problem.key == "net-conf.json"
    assert value is None or problem.value == value


def test_null_is_an_object_that_says_nothing() -> None:
    """Go takes it for no change to the defaults, which lack a network."""
    assert refused("null").key == "net-conf.json: Network"


def test_long_values_are_shown_in_short() -> None:
    """What is wrong is still one line."""
    assert refused_with(Network="x" * 9000).value == "x" * 80 + "..."
    assert refused_with(Network={"a": "x" * 9000}).value == "{...}"
    assert refused('{"SubnetLen": 1' + "0" * 9000 + "}").key == "net-conf.json: SubnetLen"


def only_refuses(text: str, *, pools: bool) -> None:
    """Either a NetConf that makes sense, or a ConfigError of one printable line."""
    problem = None
    try:
        conf = parse(text, "net-conf.json", pools=pools)
    except ConfigError as exc:
        problem = exc
    if problem is not None:
        assert str(problem).isprintable()
        assert problem.key.startswith("net-conf.json")
        return
    assert conf.networks
    assert set(conf.pools) == ({network.version for network in conf.networks} if pools else set())
    for pool in conf.pools.values():
        assert ip_network((pool.first, pool.length)).subnet_of(pool.network)  # type: ignore[arg-type]
        assert ip_network((pool.last, pool.length)).subnet_of(pool.network)  # type: ignore[arg-type]


NAMES = st.sampled_from([*net_conf._TOP, *net_conf._BACKEND, "Type", "network", "TYPE"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 130)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["vxlan", "10.244.0.0/16", "fd00::/56", "10.244.8.0", "fd00:0:0:8::", "fe80::1%eth0/64", "::1%a"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_any_json_is_read_or_refused(value: object, pools: bool) -> None:
    """Known names with values of any shape, at any depth."""
    only_refuses(json.dumps(value), pools=pools)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_any_value_in_a_sound_file_is_read_or_refused(keys: dict[str, Any], pools: bool) -> None:
    """Some keys of an otherwise sound file are anything at all."""
    sound = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/56", "Backend": VXLAN}
    only_refuses(json.dumps(sound | keys), pools=pools)


@given(
    st.ip_addresses(v=4),
    st.integers(0, 32),
    st.integers(0, 33),
    st.none() | st.ip_addresses(v=4).map(str),
    st.none() | st.ip_addresses(v=4).map(str),
)
def test_any_pool_is_inside_its_network(
    address: object, prefix: int, length: int, low: str | None, high: str | None
) -> None:
    """Whatever lengths and bounds are written, what is handed out lies in the network, or is refused."""
    doc = {"Network": f"{address}/{prefix}", "SubnetLen": length, "SubnetMin": low, "SubnetMax": high, "Backend": VXLAN}
    only_refuses(json.dumps(doc), pools=True)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(octets: bytes) -> None:
    """Also what is no UTF-8."""
    only_refuses(octets.decode("utf-8", "surrogateescape"), pools=True)
