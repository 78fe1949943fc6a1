"""A key and a value of flannel's etcd registry.

the last part of the key, a newline, the value
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_network

from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.registry.etcd.formats import EtcdClaim, build_key, build_value, parse_key, read
from vxland.registry.net_conf import NetConf

CONF = NetConf((ip_network("10.0.0.0/8"), ip_network("fd00:12::/32")))
SEEDS = [
    key + b"\n" + value
    for key in (b"10.12.13.0-24", b"10.12.13.0-24&fd00:12:13::-56", b"10.5.0.0-30&fd00:12::4-126", b"192.168.0.0-16")
    for value in (
        b'{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}',
        b'{"PublicIP":"192.168.64.3","PublicIPv6":"fd00:192:168::3","BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"c6-d2-32-6f-8f-44"},'
        b'"BackendV6Data":{"VNI":2,"VtepMAC":"fad2.326f.8f45"}}',
        b'{"PublicIP":"0.0.0.0","BackendType":"vxlan","backendtype":"VXLAN","BackendV6Data":{"VNI":1,"VtepMAC":""}}',
        b'{"PublicIP":"192.168.64.3","BackendType":"host-gw","BackendData":null}',
        b'{"PublicIP":"192.168.64.3"}',
        b"null",
    )
]


def checking() -> AbstractContextManager[Check]:
    """Yield the check."""
    return nullcontext(check)


def check(raw: bytes) -> None:
    """Check for valid leases in the network, or a reason; leases written and read again are the same."""
    head, _, value = raw.partition(b"\n")
    key = head.decode(errors="replace")
    claim = read(key, value, CONF)
    reading = claim.reading
    for said in (reading.problem, reading.unreachable):
        if said:
            check_told(said)
    assert not set(reading.leases) & reading.unread
    if claim.subnets:
        assert parse_key(build_key({subnet.version: subnet for subnet in claim.subnets})) == claim.subnets
    for version, lease in reading.leases.items():
        assert lease.subnet in claim.subnets
        assert CONF.contains(lease.subnet)
        assert lease.subnet.version == lease.vtep.address.version == version
        assert lease.vtep.mac.is_unicast
        assert not lease.vtep.address.is_multicast
        assert not lease.vtep.address.is_unspecified
    if set(reading.leases) == {subnet.version for subnet in claim.subnets} and not reading.problem:
        check_written_again(claim)


def check_written_again(claim: EtcdClaim) -> None:
    """Check that a complete entry is the same when written as this node writes its own, and read again."""
    leases = claim.reading.leases
    vteps = {version: lease.vtep for version, lease in leases.items()}
    key = build_key({subnet.version: subnet for subnet in claim.subnets})
    again = read(key, build_value(vteps, CONF.vni), CONF)
    assert again.reading.leases == leases
    assert again.subnets == claim.subnets
    assert not again.reading.problem
