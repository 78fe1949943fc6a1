"""Nodes on loopback: real pumps over real UDP sockets, each with a socket pair as its TAP.

                node A                              node B
    host --- TAP   pump   127.0.0.1:port --- 127.0.0.2:port   pump   TAP --- host

One read of a SOCK_SEQPACKET socket is one message, as one read of a TAP is one frame after its virtio header.
There is no clock and no sleeping: `run` does the work of an event loop until the awaited condition holds.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address

from tests.frames import MAC_B, OWN_MAC, PLAIN, VNI, lease
from tests.patience import PATIENCE_S
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.table import Table, table_of
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.pump import COMPILED, Pump
from vxland.model.lease import Lease

HERE, THERE, ELSEWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
IP_RECVTOS = 13  # linux/in.h, not in the socket module before Python 3.14
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h


class Node:
    """A pump and its ends: `host` is the far end of the TAP, `came` the messages read there, with virtio headers."""

    def __init__(
        self, outer: str, port: int, mac: int, table: Table, source_ports: int = 4, offload: bool = COMPILED
    ) -> None:
        self.host, self.tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.host, self.tap):
            end.setblocking(False)
        self.udp = Udp(ip_address(outer), port, source_ports, offload)
        self.faults: list[int] = []
        self.came: list[bytes] = []
        self.refusals: list[tuple[str, str]] = []
        self.narrowed = 0
        self.mac = mac
        self.offload = offload
        self.encap = Encap(VNI, source_ports)
        self.pump = self.new_pump(table)

    def new_pump(self, table: Table, tap: int | None = None, coalescer: Coalescer | None = None) -> Pump:
        """Build another pump with the same ends, as the daemon does."""
        decap, usual = self.receiving()
        return Pump(
            self.tap.fileno() if tap is None else tap,
            self.udp,
            self.encap,
            decap,
            coalescer or usual,
            table,
            self.faults.append,
            on_refused=lambda offload, why: self.refusals.append((offload, why)),
            on_too_big=self._narrow,
        )

    def receiving(self) -> tuple[Decap, Coalescer]:
        """Return the rules for received datagrams."""
        return Decap(VNI, self.mac, True), Coalescer(tcp=self.offload, udp=self.offload)

    def _narrow(self) -> None:
        self.narrowed += 1

    def close(self) -> None:
        """Close every socket."""
        self.udp.close()
        self.host.close()
        self.tap.close()

    def put(self, frame: bytes, virtio: bytes = PLAIN) -> None:
        """Pass a frame to the TAP, as the host's kernel would."""
        self.host.sendmsg([virtio, frame])

    def frames(self) -> list[bytes]:
        """Return the frames written to the TAP, without their virtio headers."""
        return [message[10:] for message in self.came]

    def read_host(self) -> None:
        """Read everything at the host's end."""
        while True:
            try:
                self.came.append(self.host.recv(1 << 17))
            except BlockingIOError:
                return


Lone = tuple[Node, socket.socket]


def run(nodes: list[Node], until: Callable[[], bool]) -> None:
    """Run the callbacks of readable sockets until a condition holds; fail if nothing becomes readable."""
    actions: dict[int, Callable[[], None]] = {}
    for node in nodes:
        actions[node.tap.fileno()] = node.pump.on_tap_readable
        actions[node.udp.receiver.fileno()] = node.pump.on_udp_readable
        actions[node.host.fileno()] = node.read_host
    while not until():
        ready, _, _ = select.select(list(actions), [], [], PATIENCE_S)
        assert ready, "nothing moves, and what was waited for has not happened"
        for handle in ready:
            actions[handle]()


def wait_readable(sock: socket.socket) -> None:
    """Wait for a datagram; fail if none arrives."""
    assert select.select([sock], [], [], PATIENCE_S)[0], "no datagram came"


def received(peer: socket.socket) -> list[bytes]:
    """Return every datagram at the peer; loopback delivers before sendmsg returns, or a moment later."""
    got = []
    wait_readable(peer)
    while True:
        try:
            got.append(peer.recv(1 << 17))
        except BlockingIOError:
            return got


class FullSender(socket.socket):
    """A sending socket whose buffer is full.

    It is one end of a Unix socket pair, because loopback never fills a UDP socket. The pair has no addresses, and the
    kernel ignores those that the compiled gear passes.
    """

    def sendmsg(self, buffers: Iterable[memoryview], *_: object) -> int:  # type: ignore[override]  # the pump passes views only
        """Send as the interpreted gear does."""
        return super().sendmsg(buffers)


def fill_up(sock: socket.socket) -> None:
    """Send until the socket's buffer is full."""
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(1000))


def received_trains(peer: socket.socket) -> list[tuple[bytes, int]]:
    """Return the buffers at a peer with UDP_GRO, each with the size of its datagrams, or 0 for a single one."""
    got: list[tuple[bytes, int]] = []
    wait_readable(peer)
    while True:
        try:
            content, control, _, _ = peer.recvmsg(1 << 17, 128)
        except BlockingIOError:
            return got
        size = [value for level, kind, value in control if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO)]
        got.append((content, int.from_bytes(size[0], sys.byteorder) if size else 0))


def send_train(sender: socket.socket, datagrams: list[bytes], address: tuple[str, int]) -> None:
    """Send datagrams of one size, the last one maybe shorter, with one UDP_SEGMENT send."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))] if len(datagrams) > 1 else []
    sender.sendmsg(datagrams, control, 0, address)


def received_in_all(peer: socket.socket, count: int) -> list[bytes]:
    """Receive until there are `count` datagrams."""
    got: list[bytes] = []
    while len(got) < count:
        got += received(peer)
    return got


def free_port(*addresses: str) -> int:
    """Return a UDP port that is free on all of the addresses."""
    for _ in range(50):
        with ExitStack() as stack:
            port = 0
            try:
                for address in addresses:
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                    sock.bind((address, port))
                    port = sock.getsockname()[1]
            except OSError:
                continue
            return port
    msg = f"no port is free on all of {addresses}"
    raise RuntimeError(msg)


def subnets_of_a(outer: str = HERE) -> list[Lease]:
    """Return node A's leases."""
    return [lease("10.244.0.0/24", outer, OWN_MAC), lease("fd00:244::/64", outer, OWN_MAC)]


def subnets_of_b(outer: str = THERE) -> list[Lease]:
    """Return node B's leases."""
    return [lease("10.244.1.0/24", outer, MAC_B), lease("fd00:244:0:1::/64", outer, MAC_B)]


@contextmanager
def two_nodes(offload: bool = COMPILED) -> Iterator[tuple[Node, Node]]:
    """Nodes A and B, each with the other's leases."""
    port = free_port(HERE, THERE)
    with ExitStack() as stack:
        a = Node(HERE, port, OWN_MAC, table_of(subnets_of_b(), port), offload=offload)
        stack.callback(a.close)
        b = Node(THERE, port, MAC_B, table_of(subnets_of_a(), port), offload=offload)
        stack.callback(b.close)
        yield a, b


@contextmanager
def two_nodes_v6() -> Iterator[tuple[Node, Node]]:
    """The same over IPv6, whose loopback has one address: each sends to the other's port."""
    ports = free_port("::1"), free_port("::1")
    with ExitStack() as stack:
        a = Node("::1", ports[0], OWN_MAC, table_of(subnets_of_b("::1"), ports[1]))
        stack.callback(a.close)
        b = Node("::1", ports[1], MAC_B, table_of(subnets_of_a("::1"), ports[0]))
        stack.callback(b.close)
        yield a, b


@contextmanager
def lone_node(source_ports: int = 4, offload: bool = COMPILED) -> Iterator[Lone]:
    """Node A, and a plain UDP socket in place of its peer B, which shows all bytes received and sent."""
    port = free_port(HERE, THERE)
    with ExitStack() as stack:
        node = Node(HERE, port, OWN_MAC, table_of(subnets_of_b(), port), source_ports, offload)
        stack.callback(node.close)
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind((THERE, port))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        peer.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        peer.setblocking(False)
        yield node, peer
