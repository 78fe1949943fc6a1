"""Configurations for the CNI plugins: reference/flannel.md section 5, with the conflist of the walk-through."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vxland.lab.cni import delegated, portmap
from vxland.reconcile import subnet_env

STATE = Path("/run/vxdemo-1/node2.cni")


def env(*, ip_masq: bool) -> str:
    """Node 2's subnet.env."""
    return subnet_env.render([IPv4Network("10.244.0.0/16")], [IPv4Network("10.244.1.0/24")], 1450, ip_masq=ip_masq)


def test_the_bridge_plugin_gets_what_flannels_plugin_delegates() -> None:
    """Every key that flannel's plugin writes; in addition only the directory of host-local's state."""
    assert delegated(env(ip_masq=True), STATE) == {
        "cniVersion": "0.3.1",
        "name": "cbr0",
        "type": "bridge",
        "hairpinMode": True,
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": False,
        "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.1.0/24"}]],
            "routes": [{"dst": "10.244.0.0/16"}],
            "dataDir": str(STATE),
        },
    }


def test_the_plugin_masquerades_where_the_daemon_does_not() -> None:
    """flannel: ipMasq is the opposite of FLANNEL_IPMASQ."""
    assert delegated(env(ip_masq=False), STATE)["ipMasq"] is True


def test_a_missing_line_is_named() -> None:
    """A subnet.env without the MTU is refused."""
    with pytest.raises(KeyError, match="FLANNEL_MTU"):
        delegated(env(ip_masq=True).replace("FLANNEL_MTU=1450\n", ""), STATE)


def test_portmap_gets_the_result() -> None:
    """The second plugin of the conflist, called as libcni does for a pod without ports."""
    result = {"cniVersion": "0.3.1", "ips": []}
    assert portmap(result) == {
        "cniVersion": "0.3.1",
        "name": "cbr0",
        "type": "portmap",
        "capabilities": {"portMappings": True},
        "prevResult": result,
    }
