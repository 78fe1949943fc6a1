"""Outer datagrams: a socket of the underlay, through the pump, to the TAP.

0  flags: ECN 3, TRAIN 4, UNKNOWN 8, UNCHECKED 16, CAPTURED 32      1  u16 bytes of each datagram, 0: all
3  the datagrams
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from struct import pack

from tests.corpus import FRAMES
from tests.fabric import ELSEWHERE, HERE, THERE, Node, free_port, subnets_of_b
from tests.frames import MAC_B, OWN_MAC, VNI, vxlan
from tests.fuzz import Check
from tests.fuzz.decapsulated import MAX_PIECES, check_decap
from tests.stream import TCP4, TCP6, UDP4, UDP6, numbered, reverse
from vxland.datapath.table import table_of
from vxland.forwarding.io.ring import Mode, Ring
from vxland.forwarding.recorder import OFF
from vxland.inspect.records import parse

ECN, TRAIN, UNKNOWN, UNCHECKED, CAPTURED = 3, 4, 8, 16, 32
SNAPLEN = 1 << 16


def _train(flags: int, datagrams: list[bytes]) -> bytes:
    return pack("!BH", flags, len(datagrams[0])) + b"".join(datagrams)


def _from_b(frame: bytes) -> bytes:
    return OWN_MAC.to_bytes(6, "big") + MAC_B.to_bytes(6, "big") + frame[12:]


SEEDS = [
    *(_train(flags, [vxlan(_from_b(frame))]) for flags in (0, 2, 3) for frame in FRAMES),
    *(
        _train(flags, [vxlan(frame) for frame in reverse(stream).segments(numbered(length), 60)])
        for stream in (TCP4, TCP6, UDP4, UDP6)
        for flags, length in ((0, 180), (TRAIN, 150), (TRAIN | CAPTURED, 60))
    ),
    *(_train(0, [vxlan(reverse(stream).superframe(numbered(1700)))]) for stream in (TCP4, TCP6)),
    _train(TRAIN, [vxlan(reverse(UDP4).superframe(numbered(300)))[:100] for _ in range(2)]),
    _train(UNKNOWN, [vxlan(_from_b(FRAMES[0]))]),
    _train(UNKNOWN | UNCHECKED, [vxlan(_from_b(FRAMES[0]))]),
    _train(0, [vxlan(_from_b(FRAMES[0]), VNI + 1)]),
]


@contextmanager
def checking() -> Iterator[Check]:
    """A node, one peer of it and an unknown sender."""
    with ExitStack() as stack:
        port = free_port(HERE, THERE)
        node = Node(HERE, port, OWN_MAC, table_of(subnets_of_b(), port))
        stack.callback(node.close)
        ring = Ring(1 << 20, SNAPLEN)
        ring.mode = Mode.INNER | Mode.OUTER
        senders = []
        for address in (THERE, ELSEWHERE):
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sender.bind((address, 0))
            senders.append(sender)

        def check(raw: bytes) -> None:
            if len(raw) < 3:
                return
            flags, size = raw[0], int.from_bytes(raw[1:3], "big")
            raw = raw[3:]
            size = max(size or len(raw), len(raw) // MAX_PIECES + 1)
            datagrams = [raw[at : at + size] for at in range(0, max(len(raw), 1), size)]
            node.pump.check_source = not flags & UNCHECKED
            node.pump.capture = ring if flags & CAPTURED else OFF
            number, cursor = ring.number, ring.head
            check_decap(node, senders[bool(flags & UNKNOWN)], datagrams, flags & ECN, train=bool(flags & TRAIN))
            copies = list(parse(ring.read(cursor)[0]))
            assert len(copies) == ring.number - number
            assert all(len(copy.vxlan) + len(copy.frame) == len(copy.vxlan) + copy.length for copy in copies)
            if flags & CAPTURED:
                assert sum(len(copy.vxlan) + copy.length for copy in copies) == len(raw)

        yield check
