"""The fate of datagrams that reach a node: each is forwarded unchanged, or counted once as a drop."""

from __future__ import annotations

import socket
from collections import Counter
from struct import pack

from tests.fabric import UDP_SEGMENT, Node, run
from tests.frames import VNI, from_outer
from tests.fuzz.device import essence, on_the_wire
from tests.steps import gathered
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.verdict import FORWARD

MAX_PIECES = 60
"""Of a train: UDP_SEGMENT takes 64, and GRO gives as many."""
APART = bytes(512)
"""Before a datagram: a buffer of so many bytes is malloc's own, and ends where AddressSanitizer sees it."""


class Expected:
    """The result of each datagram alone: the frames on a wire behind the TAP, and the drops."""

    def __init__(self, node: Node, outer: str, tos: int) -> None:
        self.frames: list[bytes] = []
        self.drops: Counter[int] = Counter()
        self.nbytes = 0
        self._node = node
        self._told = from_outer(outer, tos & 3)
        self._decap = Decap(VNI, node.mac, node.pump.check_source)
        self._alone = Coalescer(tcp=True, udp=True)

    def add(self, raw: bytes, stride: int) -> int:
        """Take a received buffer of datagrams of `stride` bytes (0: it is one); how many there are."""
        decap, alone, buf = self._decap, self._alone, bytearray(APART + raw)
        at, end, count = len(APART), len(buf), 0
        stride = decap.stride_of(buf, at, end - at, stride)
        while at < end or count == 0:
            length = min(stride, end - at)
            verdict = decap.decap(buf, at, length, self._told, self._node.pump.table)
            if verdict == FORWARD:
                assert (decap.frame_at, decap.frame_len) == (at + 8, length - 8)
                self.nbytes += decap.frame_len
                alone.start(buf, 0, decap)
                self.frames += on_the_wire(gathered(buf, alone.ranges))
            else:
                self.drops[verdict] += 1
            at += stride
            count += 1
        return count


def check_decap(
    node: Node, sender: socket.socket, datagrams: list[bytes], tos: int = 0, *, train: bool = False
) -> None:
    """Send datagrams to a node and hold what comes out of its TAP, and its counters, against each one by itself.

    With `train` they are of one size, the last maybe shorter, and leave in one UDP_SEGMENT send.
    """
    expected = Expected(node, sender.getsockname()[0], tos)
    control = [(socket.IPPROTO_IP, socket.IP_TOS, pack("=i", tos))] if tos else []
    if train and len(datagrams) > 1:
        control.append((socket.IPPROTO_UDP, UDP_SEGMENT, pack("=H", len(datagrams[0]))))
        sends, stride = [b"".join(datagrams)], len(datagrams[0]) if node.udp.gro else 0
        buffers = sends if stride else datagrams
    else:
        sends = buffers = datagrams
        stride = 0
    count = sum(expected.add(raw, stride) for raw in buffers)
    counters = node.pump.decap_counters
    node.came.clear()
    done, nbytes = sum(counters.drops) + counters.frames, counters.bytes
    drops = Counter(dict(enumerate(counters.drops)))
    for each in sends:
        sender.sendmsg([each], control, 0, (str(node.udp.address), node.udp.port))
    run([node], lambda: sum(counters.drops) + counters.frames >= done + count)
    node.read_host()
    assert sum(counters.drops) + counters.frames == done + count
    assert Counter(dict(enumerate(counters.drops))) - drops == expected.drops
    assert counters.bytes - nbytes == expected.nbytes
    assert [essence(frame) for write in node.came for frame in on_the_wire(write)] == list(
        map(essence, expected.frames)
    )
