"""Entries that the demo writes to etcd for others: reference/flannel.md sections 1 and 2, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from vxland.lab.etcd import lease_key, lease_value, network_config, reservation
from vxland.model.lease import Mac

NODE, MAC = IPv4Address("192.168.64.3"), Mac.parse("c6:d2:32:6f:8f:44")


def test_a_lease_is_as_flannel_writes_it() -> None:
    """The example of the reference."""
    assert lease_key(IPv4Network("10.5.52.0/24")) == "/coreos.com/network/subnets/10.5.52.0-24"
    data = '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}'
    assert lease_value(NODE, MAC) == f'{{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",{data}}}'


def test_a_reservation_is_incomplete() -> None:
    """A check of the lease afterwards shows whether vxland has completed it."""
    assert reservation(NODE, MAC) != lease_value(NODE, MAC)
    assert '"PublicIP":"192.168.64.3"' in reservation(NODE, MAC)


def test_the_network_is_a_net_conf() -> None:
    """Further keys go between the network and its backend."""
    found = network_config(IPv4Network("10.0.0.0/8"), SubnetLen=24)
    assert found == '{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}'
