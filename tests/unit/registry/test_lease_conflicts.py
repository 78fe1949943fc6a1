"""Conflicts between leases, as sentences."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from vxland.model.lease import Lease, Mac, Vtep
from vxland.registry.lease_conflicts import find_conflicts


def lease(subnet: str, address: str, mac: int) -> Lease:
    """Return a lease."""
    return Lease(ip_network(subnet), Vtep(ip_address(address), Mac(mac)))


def test_a_correct_cluster_has_no_conflict() -> None:
    """A dual-stack node has one VTEP for two subnets, or one for each; sizes may differ."""
    assert find_conflicts([]) == {}
    assert find_conflicts(
        lease(subnet, address, mac)
        for subnet, address, mac in (
            ("10.244.1.0/24", "192.168.0.1", 1),
            ("fd00:1::/64", "192.168.0.1", 1),
            ("10.244.2.0/25", "192.168.0.2", 2),
            ("fd00:2::/64", "fd00::2", 3),
        )
    ) == {}  # fmt: skip


def test_shared_addresses_and_macs_are_reported_with_the_subnets() -> None:
    """Vagrant gives every node 10.0.2.15, and cloned machines share their MAC."""
    leases = [lease(f"10.244.{number}.0/24", "10.0.2.15", 7) for number in range(1, 6)]
    named = "10.244.1.0/24, 10.244.2.0/24, 10.244.3.0/24 and 2 more: every node needs its own"
    assert find_conflicts(leases) == {
        "10.0.2.15": f"the VTEP address 10.0.2.15 is that of the nodes of {named}",
        "00:00:00:00:00:07": f"the MAC 00:00:00:00:00:07 is that of the nodes of {named}",
    }
