"""Strategy for tables whose VTEPs and subnets overlap in every way, and addresses to look up in them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from vxland.model.lease import Lease, Mac, Vtep

PORT = 8472
OUTERS = [ip_address(f"192.0.2.{i}") for i in range(1, 5)]
VTEPS = [Vtep(address, Mac(0x02_00_00_00_00_00 | mac)) for address, mac in zip(OUTERS, (1, 2, 3, 3), strict=True)] + [
    Vtep(OUTERS[0], Mac(0x02_00_00_00_00_05)),
    Vtep(ip_address("2001:db8::1"), Mac(0x02_00_00_00_00_06)),
]
"""Two of them have one MAC, two of them one address, and one is of IPv6."""
SUBNETS_4 = [ip_network(each) for each in ("10.1.0.0/16", "10.1.1.0/24", "10.1.1.128/25", "10.2.0.0/24")]
SUBNETS_6 = [ip_network(each) for each in ("fd00::/48", "fd00:0:0:1::/64")]
NATS = [ip_network(each) for each in ("198.51.100.0/24", "198.51.100.7/32", "192.0.2.2/32", "192.0.2.0/28")]
PROBES_4 = [ip_address(each) for each in ("10.1.9.9", "10.1.1.1", "10.1.1.200", "10.2.0.1", "10.3.0.1")]
PROBES_6 = [ip_address(each) for each in ("fd00::1", "fd00:0:0:1::1", "fd01::1")]
PROBES_OUTER = [*OUTERS, *(ip_address(each) for each in ("198.51.100.7", "198.51.100.8", "203.0.113.1"))]

leases = st.builds(
    Lease,
    st.sampled_from([*SUBNETS_4, *SUBNETS_6]),
    st.sampled_from(VTEPS),
    st.lists(st.sampled_from(NATS), max_size=2).map(tuple),
)
clusters = st.lists(
    leases.filter(lambda lease: lease.vtep.address.version == 4), max_size=10, unique_by=lambda lease: lease.subnet
)
"""Leases of a plane: each subnet once, over an underlay of IPv4."""
