"""A Node object of Kubernetes as JSON, with any annotations."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext, suppress
from ipaddress import ip_network

from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.model.errors import ConfigError
from vxland.registry.kube.annotations import (
    Names,
    annotations_of,
    chosen_addresses,
    name_of,
    overwrites,
    pod_subnets,
    render,
    stored_macs,
    uid_of,
)
from vxland.registry.kube.peers import read
from vxland.registry.net_conf import NetConf

CONF = NetConf((ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56")))
PREFIX = "flannel.alpha.coreos.com"
NAMES = Names.under(PREFIX)


def _node(subnets: list[str], **texts: str) -> bytes:
    annotations = {f"{PREFIX}/{name.replace('_', '-')}": text for name, text in texts.items()}
    node = {"metadata": {"name": "n", "uid": "u", "annotations": annotations}, "spec": {"podCIDRs": subnets}}
    return json.dumps(node, separators=(",", ":")).encode()


_DATA, _DATA6 = '{"VNI":1,"VtepMAC":"0a:1b:2c:3d:4e:5f"}', '{"VNI":1,"VtepMAC":"0a:1b:2c:3d:4e:60"}'
_OWN = {"kube_subnet_manager": "true", "backend_type": "vxlan"}
SEEDS = [
    _node(["10.244.1.0/24"], **_OWN, backend_data=_DATA, public_ip="192.168.0.1"),
    _node(
        ["10.244.1.0/24", "fd00:10:244:1::/64"],
        **_OWN,
        backend_data=_DATA,
        backend_v6_data=_DATA6,
        public_ip="192.168.0.1",
        public_ipv6="fd00::1",
        public_ip_overwrite="203.0.113.1",
        public_ipv6_overwrite="2001:db8::1",
        node_public_ip="192.168.0.2",
        node_public_ipv6="fd00::2",
    ),
    _node(["10.244.1.7/24"], **_OWN, backend_data='{"VNI":7,"VtepMAC":""}', public_ip="0.0.0.0"),  # noqa: S104  (data)
    _node([], kube_subnet_manager="true", backend_type="host-gw"),
    b'{"metadata":null,"spec":{"podCIDR":"10.244.3.0/24"}}',
]


def checking() -> AbstractContextManager[Check]:
    """Yield the check."""
    return nullcontext(check)


def check(raw: bytes) -> None:
    """Check for leases in the network, or a reason; a node with these annotations would write the same."""
    try:
        node = json.loads(raw)
    except (ValueError, RecursionError):
        return
    assert isinstance(name_of(node), str)
    assert isinstance(uid_of(node), str)
    texts = annotations_of(node)
    stored_macs(texts, NAMES)
    for chosen in (chosen_addresses, overwrites):
        try:
            addresses = chosen(texts, NAMES)
        except ConfigError as exc:
            check_told(str(exc))
        else:
            assert all(address.version == version for version, address in addresses.items())
    with suppress(ValueError):
        assert len(pod_subnets(node)) <= 2
    reading = read(node, NAMES, CONF)
    for said in (reading.problem, reading.unreachable):
        if said:
            check_told(said)
    assert not set(reading.leases) & reading.unread
    for version, lease in reading.leases.items():
        assert CONF.contains(lease.subnet)
        assert lease.subnet.version == lease.vtep.address.version == version
        assert lease.vtep.mac.is_unicast
    if len(reading.leases) == len(CONF.networks):
        vteps = {version: lease.vtep for version, lease in reading.leases.items()}
        written = {"metadata": {"annotations": render(NAMES, CONF.vni, vteps)}, "spec": node["spec"]}
        assert read(written, NAMES, CONF).leases == reading.leases
        assert stored_macs(annotations_of(written), NAMES) == {v: vtep.mac for v, vtep in vteps.items()}
