"""net-conf.json of any content is parsed, or refused in one printable line."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.registry.net_confs import VXLAN
from vxland.model.errors import ConfigError
from vxland.registry import net_conf
from vxland.registry.net_conf import parse


def only_refuses(text: str, *, pools: bool) -> None:
    """Check that a text is a consistent NetConf, or a ConfigError of one printable line."""
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
        assert ip_network((pool.first, pool.length)).subnet_of(pool.network)  # type: ignore[arg-type]  # of one IP version
        assert ip_network((pool.last, pool.length)).subnet_of(pool.network)  # type: ignore[arg-type]  # of one IP version


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
    """Some keys of an otherwise valid file have any value."""
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
    """For any lengths and bounds, the subnets are inside the network, or the file is refused."""
    doc = {"Network": f"{address}/{prefix}", "SubnetLen": length, "SubnetMin": low, "SubnetMax": high, "Backend": VXLAN}
    only_refuses(json.dumps(doc), pools=True)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """So are bytes that are no UTF-8."""
    only_refuses(raw.decode("utf-8", "surrogateescape"), pools=True)
