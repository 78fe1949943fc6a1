"""TAP frames behind their virtio headers: from the TAP, through the pump, to a peer; and from there back again.

0  the virtio header      10  the frame
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.corpus import FRAMES, STREAMS
from tests.fabric import HERE, THERE, Node, free_port, received_in_all, run, subnets_of_b
from tests.frames import HEADROOM, HOST_MAC, PLAIN, TAILROOM, VNI, vxlan
from tests.fuzz import Check
from tests.fuzz.decapsulated import APART, MAX_PIECES, check_decap
from tests.fuzz.device import on_the_wire
from tests.stream import numbered
from tests.virtio import check_sent
from vxland.datapath.encap import Encap
from vxland.datapath.table import table_of
from vxland.datapath.verdict import FORWARD

SEEDS = [
    *(PLAIN + frame for frame in FRAMES),
    *(stream.virtio(mss) + stream.superframe(numbered(300)) for stream in STREAMS for mss in (60, 100, 400)),
    *(bytes([1, 0, 0, 0, 0, 0]) + stream.virtio(60)[6:10] + stream.superframe(numbered(40)) for stream in STREAMS),
]


@contextmanager
def checking() -> Iterator[Check]:
    """A node and a peer that sends everything back; the node's own MAC is not that of the frames."""
    with ExitStack() as stack:
        port = free_port(HERE, THERE)
        node = Node(HERE, port, HOST_MAC, table_of(subnets_of_b(), port))
        stack.callback(node.close)
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind((THERE, port))
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

        rules = Encap(VNI, len(node.udp.senders))

        def decided(raw: bytes) -> int:
            """The verdict alone, in a buffer that ends where an answer may."""
            buf = bytearray(APART + bytes(HEADROOM - len(PLAIN)) + raw + bytes(TAILROOM))
            at = len(APART) + HEADROOM
            return rules.encap(buf, at, len(raw) - len(PLAIN), node.pump.table, 0)

        def check(raw: bytes) -> None:
            counters = node.pump.encap_counters
            before = counters.reads, counters.frames, counters.bytes, sum(counters.drops), counters.answers
            if not raw:
                return
            node.came.clear()
            node.host.send(raw)
            run([node], lambda: counters.reads > before[0])
            node.read_host()
            sent, dropped = counters.frames - before[1], sum(counters.drops) - before[3]
            answered = counters.answers - before[4]
            verdict = decided(raw)
            assert (verdict > FORWARD) <= dropped
            assert (verdict < FORWARD) <= answered
            assert (sent > 0) <= (verdict == FORWARD)
            answers, node.came = node.came, []
            assert len(answers) == answered <= 1
            assert bool(sent) + dropped == 1 or (not sent and not dropped and answered)
            assert all(len(on_the_wire(answer)) == 1 for answer in answers)
            datagrams = received_in_all(peer, sent) if sent else []
            assert len(datagrams) == sent
            assert sum(map(len, datagrams)) == counters.bytes - before[2] + 8 * sent
            header = vxlan(b"", VNI)
            assert all(datagram[:8] == header and len(datagram) >= 8 + 14 for datagram in datagrams)
            if sent and raw[1] == 0:  # no superframe: as it was, but for the MAC and a checksum
                assert [len(datagram) for datagram in datagrams] == [len(raw) - 10 + 8]
            if sent:
                check_sent(raw[:10], raw[10:], datagrams, tunnels=True)
            for at in range(0, sent, MAX_PIECES):
                check_decap(node, peer, datagrams[at : at + MAX_PIECES])

        yield check
