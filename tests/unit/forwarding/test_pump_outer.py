"""Outer headers and narrow ways through the real pump: what a socket at the far end sees of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tests.fabric import HERE, THERE, Node, free_port, received_in_all, subnets_of_b
from tests.frames import MAC_B, OWN_MAC, POD_A, POD_B, UDP, VNI, frame_of, from_b, ipv4, lease, udp, vxlan
from tests.patience import PATIENCE_S
from tests.stream import TCP4, numbered
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.table import table_of
from vxland.forwarding.io.udp import Udp
from vxland.model.kernel_state import OuterHeader

IP_RECVTTL = 12  # linux/in.h
IP_RECVTOS = 13


@contextmanager
def marked(outer: OuterHeader, offload: bool = True) -> Iterator[tuple[Node, socket.socket]]:
    """Node A with such outer headers, and in place of its peer B a socket that reports TOS and TTL."""
    port = free_port(HERE, THERE)
    node = Node(HERE, port, OWN_MAC, table_of(subnets_of_b(), port), 2, offload)
    node.udp.close()
    node.udp = Udp(ip_address(HERE), port, 2, offload, outer=outer)
    node.encap = Encap(VNI, 2, outer)
    node.pump = node.new_pump(node.pump.table)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((THERE, port))
        peer.setblocking(False)
        for option in (IP_RECVTTL, IP_RECVTOS):
            peer.setsockopt(socket.IPPROTO_IP, option, 1)
        try:
            yield node, peer
        finally:
            node.close()


def marks(peer: socket.socket, count: int) -> list[tuple[int, int]]:
    """TTL and TOS of the next datagrams."""
    found = []
    peer.settimeout(PATIENCE_S)
    for _ in range(count):
        _, control, _, _ = peer.recvmsg(1 << 16, 2 * socket.CMSG_SPACE(4))
        options = {kind: value[0] for _, kind, value in control}
        found.append((options[socket.IP_TTL], options[socket.IP_TOS]))
    return found


def frame(tos: int, ttl: int) -> bytes:
    """A small frame with this TOS and TTL."""
    return frame_of(ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, bytes(32)), tos=tos, ttl=ttl))


SENT = [(0, 9), (0, 9), (0xB8, 9), (0xB8, 9), (0xB8, 33), (0xBB, 33), (0x02, 33)]


@pytest.mark.parametrize(
    ("outer", "seen"),
    [
        (OuterHeader(), [(64, tos & 3) for tos, _ in SENT]),
        (OuterHeader(ttl=7, dscp=10), [(7, 40 | tos & 3) for tos, _ in SENT]),
        (OuterHeader(dscp=None), [(64, tos) for tos, _ in SENT]),
        (OuterHeader(ttl=None, dscp=10), [(ttl, 40 | tos & 3) for tos, ttl in SENT]),
        (OuterHeader(ttl=None, dscp=None, df="inherit"), [(ttl, tos) for tos, ttl in SENT]),
    ],
)
def test_every_datagram_has_its_own_marks(outer: OuterHeader, seen: list[tuple[int, int]]) -> None:
    """However they are grouped into sends: a train's datagrams agree in them."""
    with marked(outer) as (node, peer):
        for tos, ttl in SENT:
            node.put(frame(tos, ttl))
        node.pump.on_tap_readable()
        assert marks(peer, len(SENT)) == seen
        assert node.pump.encap_counters.frames == len(SENT)


def narrow(node: Node, most: int) -> None:
    """Have node A know that the way to B carries so many bytes of packet."""
    node.pump.limits = Limits({ip_address(THERE): most})


def test_a_superframe_too_big_comes_back_as_an_error() -> None:
    """Nothing of it leaves; one that fits does."""
    with marked(OuterHeader(df="set")) as (node, peer):
        narrow(node, 1000)
        node.put(TCP4.superframe(numbered(5000)), TCP4.virtio(1400))
        node.pump.on_tap_readable()
        node.read_host()
        (answer,) = node.frames()
        assert answer[34:36] == b"\x03\x04"
        assert int.from_bytes(answer[40:42], "big") == 1000
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        counters = node.pump.encap_counters
        assert (counters.answers, counters.frames, counters.by_reason()["too_big"]) == (1, 0, 1)
        node.put(TCP4.superframe(numbered(5000)), TCP4.virtio(900))
        node.pump.on_tap_readable()
        assert len(received_in_all(peer, 6)) == 6
        assert counters.fragmented == 0


def test_what_may_be_fragmented_leaves_one_by_one_and_is_counted() -> None:
    """No train: the kernel takes none that it had to fragment."""
    with marked(OuterHeader()) as (node, peer):
        narrow(node, 1000)
        frames = [
            frame_of(ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, bytes(size))), MAC_B) for size in (1200, 1200, 1200, 900)
        ]
        for raw in frames:
            node.put(raw)
        node.pump.on_tap_readable()
        assert received_in_all(peer, 4) == [vxlan(raw) for raw in frames]
        counters = node.pump.encap_counters
        assert (counters.frames, counters.batches, counters.fragmented) == (4, 4, 3)


def test_limits_outlive_the_table() -> None:
    """A change of other leases, which have other indices, leaves the limit of a path as it is."""
    with marked(OuterHeader(df="set")) as (node, peer):
        narrow(node, 100)
        further = lease("10.244.7.0/24", "127.0.0.7", 0x020000000007)
        node.pump.table = table_of([further, *subnets_of_b()], node.udp.port)
        node.put(frame_of(ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, bytes(200)))))
        node.put(frame(0, 9))
        node.pump.on_tap_readable()
        assert len(received_in_all(peer, 1)) == 1
        assert node.pump.encap_counters.by_reason()["too_big"] == 1


def test_a_refusal_by_the_kernel_is_reported_once_a_wakeup() -> None:
    """EMSGSIZE: the path MTU has to be read again."""
    with marked(OuterHeader(df="set")) as (node, _):
        for _ in range(3):
            node.put(frame_of(b"\x45" + bytes(65_500), MAC_B)[:12] + b"\x88\xcc" + bytes(65_500))
        node.pump.on_tap_readable()
        assert node.pump.encap_counters.by_reason()["too_big"] == 3
        assert node.narrowed == 1
        node.put(frame(0, 9))
        node.pump.on_tap_readable()
        assert node.narrowed == 1


def test_frames_with_a_group_policy_pass() -> None:
    """The G, D and A flags and the policy id are reserved bits, which receivers ignore: RFC 7348 section 5."""
    with marked(OuterHeader()) as (node, peer):
        inner = from_b(ipv4(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"x")))
        for header in (b"\x88\0\0\x64\0\0\x01\0", b"\x88\x08\0\x64\0\0\x01\0", b"\x08\0\0\0\0\0\x01\0"):
            peer.sendto(header + inner, (HERE, node.udp.port))
        while len(node.came) < 3:
            node.pump.on_udp_readable()
            node.read_host()
        assert node.frames() == [inner] * 3
