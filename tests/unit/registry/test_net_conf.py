"""net-conf.json: values and defaults, by Go's rules."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.unit.registry.net_confs import VXLAN, made
from vxland.registry.net_conf import NetConf, Pool, parse


def test_kube_flannels_own() -> None:
    """The ConfigMap of kube-flannel.yml: omitted keys have flannel's defaults."""
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
    """All values are kept; IPv4 comes first."""
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
    """/24 and /64 if four of them fit, else quarters, without the network's first subnet."""
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
    """They are Go's zero values, as are those of SubnetLen and Port."""
    conf = made(SubnetMin="0.0.0.0", SubnetMax="0.0.0.0", SubnetLen=0, Backend=VXLAN | {"Port": 0})  # noqa: S104  (nothing is bound)
    assert conf == made()
    six: dict[str, Any] = {"EnableIPv6": True, "IPv6Network": "fd00::/56"}
    assert made(**six, IPv6SubnetMin="::", IPv6SubnetMax="::") == made(**six)


def test_only_ipv6() -> None:
    """EnableIPv4 may be off; the IPv4 network is ignored then."""
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
