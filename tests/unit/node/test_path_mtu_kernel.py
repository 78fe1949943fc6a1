"""Path MTUs from the kernel, over loopback."""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_address

import pytest

from tests.fabric import free_port
from vxland.forwarding.io.udp import Udp, sender_count
from vxland.model.errors import StartError
from vxland.model.kernel_state import OuterHeader
from vxland.node.path_mtu_kernel import Paths

LOOPBACK_MTU = 65536


@pytest.mark.parametrize(("here", "there"), [("127.0.0.1", "127.0.0.2"), ("::1", "::1")])
def test_the_path_over_loopback(here: str, there: str) -> None:
    """The path MTU is the interface's, at each call."""
    with closing(Paths(ip_address(here), 8472)) as paths:
        assert paths.interface(socket.if_nametoindex("lo")) == ("lo", LOOPBACK_MTU)
        assert {paths.mtu_to(ip_address(there)) for _ in range(3)} <= {
            LOOPBACK_MTU,
            LOOPBACK_MTU - 1,
        }  # IPv4 counts 16 bits


def test_no_route_and_no_interface() -> None:
    """The result is None and no error: both may come back."""
    with closing(Paths(ip_address("127.0.0.1"), 8472)) as paths:
        assert paths.interface(2**31 - 1) is None
        assert paths.mtu_to(ip_address("192.0.2.1")) is None  # from a loopback address


def test_an_address_that_is_not_ours() -> None:
    """The error is the same as for the data path's sockets."""
    with pytest.raises(StartError, match="not an address of this machine"):
        Paths(ip_address("192.0.2.1"), 8472)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("outer", "dfs"),
    [
        (OuterHeader(), [0, 0]),
        (OuterHeader(ttl=9, dscp=46, df="set"), [2, 2]),
        (OuterHeader(ttl=None, dscp=None, df="inherit"), [0, 0, 2, 2]),
    ],
)
def test_sockets_have_the_fixed_fields(address: str, outer: OuterHeader, dfs: list[int]) -> None:
    """The senders have TTL, TOS and path MTU discovery (DONT 0, DO 2) as configured, in either family."""
    host = ip_address(address)
    with closing(Udp(host, free_port(address), 2, offload=False, outer=outer)) as udp:
        assert len(udp.senders) == sender_count(outer, 2)
        v4 = host.version == 4
        level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
        ttl, tos, discover = (socket.IP_TTL, socket.IP_TOS, 10) if v4 else (socket.IPV6_UNICAST_HOPS, 67, 23)
        for sender, df in zip(udp.senders, dfs, strict=True):
            assert sender.getsockopt(level, ttl) == (outer.ttl or 64)
            assert sender.getsockopt(level, tos) == (outer.dscp or 0) << 2
            assert sender.getsockopt(level, discover) == df


def test_without_checksums_there_are_no_trains() -> None:
    """The kernel segments only datagrams with checksums; the receiver accepts datagrams without."""
    host = ip_address("::1")
    with closing(Udp(host, free_port("::1"), 1, offload=True, outer=OuterHeader(checksum_v6=False))) as udp:
        assert udp.max_datagrams == 1
        assert udp.senders[0].getsockopt(socket.IPPROTO_UDP, 101) == 1  # UDP_NO_CHECK6_TX, linux/udp.h
        assert udp.receiver.getsockopt(socket.IPPROTO_UDP, 102) == 1  # UDP_NO_CHECK6_RX
    with closing(Udp(host, free_port("::1"), 1, offload=True)) as udp:
        assert udp.receiver.getsockopt(socket.IPPROTO_UDP, 102) == 0
