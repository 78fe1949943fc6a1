"""net-conf.json, from a file or etcd's config key.

0  flags: POOLS 1      1  the text
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext

from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.model.errors import ConfigError
from vxland.model.lease import MAX_VNI
from vxland.model.mtu import MIN_MTU, OVERHEAD
from vxland.registry.net_conf import NetConf, parse

POOLS = 1
SEEDS = [
    flags + text
    for flags in (b"0", b"1")
    for text in (
        b'{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}',
        b'{"Network":"10.5.0.0/16","SubnetLen":28,"SubnetMin":"10.5.10.0","SubnetMax":"10.5.99.0","Backend":'
        b'{"Type":"VXLAN","VNI":4096,"Port":4789,"MTU":1400,"GBP":true,"Learning":true,"DirectRouting":true}}',
        b'{"EnableIPv4":true,"EnableIPv6":true,"EnableNFTables":true,"Network":"10.0.0.0/8","IPv6Network":'
        b'"fd00:10:244::/56","IPv6SubnetLen":66,"IPv6SubnetMin":"::","IPv6SubnetMax":"fd00:10:244::c000:0:0:0",'
        b'"Backend":{"Type":"vxlan","MacPrefix":"0E-2A"}}',
        b'{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/8","network":null,"Backend":{"type":"vxlan"}}',
        b'{"Network":"10.0.0.0/30","Backend":{"Type":"udp"}}',
        b'{"Network":"0.0.0.0/0","Network":"10.1.2.3/24","SubnetLen":1e2,"Backend":[]}',
    )
]


def checking() -> AbstractContextManager[Check]:
    """Yield the check."""
    return nullcontext(check)


def check(raw: bytes) -> None:
    """Check for a NetConf within the limits that is the same when written and read again, or one ConfigError."""
    pools = bool(raw[:1] and raw[0] & POOLS)
    try:
        conf = parse(raw[1:].decode(errors="replace"), "net-conf.json", pools=pools)
    except ConfigError as exc:
        check_told(str(exc))
        assert exc.key.startswith("net-conf.json")
        return
    assert conf.networks
    assert 0 <= conf.vni <= MAX_VNI
    assert 0 < conf.port <= 65535
    assert conf.mtu is None or MIN_MTU + min(OVERHEAD.values()) <= conf.mtu <= 65535
    assert set(conf.pools) == (set(conf.by_version) if pools else set())
    for version, pool in conf.pools.items():
        assert pool.network == conf.by_version[version]
        size = 1 << pool.network.max_prefixlen - pool.length
        assert pool.first in pool.network
        assert pool.last in pool.network
        assert int(pool.first) % size == int(pool.last) % size == 0
        assert pool.first <= pool.last  # type: ignore[operator]  # of one family
        assert pool.network.prefixlen + 2 <= pool.length
    assert parse(json.dumps(written(conf)), "net-conf.json", pools=pools) == conf


def written(conf: NetConf) -> dict[str, object]:
    """Return the settings as JSON."""
    backend: dict[str, object] = {"Type": "vxlan", "VNI": conf.vni, "Port": conf.port, "MTU": conf.mtu}
    backend |= {"DirectRouting": conf.direct_routing} | dict.fromkeys(conf.ignored, True)
    text: dict[str, object] = {"EnableNFTables": conf.nftables, "Backend": backend}
    for version, prefix in ((4, ""), (6, "IPv6")):
        network, pool = conf.by_version.get(version), conf.pools.get(version)
        text[f"EnableIPv{version}"] = network is not None
        text[f"{prefix}Network"] = None if network is None else str(network)
        if pool is not None:
            text[f"{prefix}SubnetLen"] = pool.length
            text[f"{prefix}SubnetMin"], text[f"{prefix}SubnetMax"] = str(pool.first), str(pool.last)
    return text
