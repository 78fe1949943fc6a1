"""Damaged frames and datagrams, the same in every process, and the data path's decisions about them.

`python -m tests.corpus` prints a digest of all decisions in the gear that the environment requests.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from struct import pack

from tests.frames import (
    ARP,
    BROADCAST,
    ICMP,
    ICMPV6,
    MAC_B,
    OUTER_A,
    OUTER_B,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    STRANGER,
    STRANGER6,
    TCP,
    UDP,
    VNI,
    arp,
    echo,
    ethernet,
    frame_of,
    from_outer,
    icmpv6,
    ipv4,
    ipv6,
    packet_of,
    solicitation,
    tcp,
    udp,
    udp_frame,
    vxlan,
)
from tests.steps import CHECK_VTEP, cut, decap_datagram, encap_frame, joined
from tests.stream import TCP4, TCP6, TIMESTAMPS, UDP4, UDP6
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.encap import Encap
from vxland.forwarding.pump import COMPILED
from vxland.model.source_check import SourceCheck

FRAMES = [
    udp_frame(POD_A, POD_B, b"payload", ecn=2),
    udp_frame(POD_A6, POD_B6, b"payload", ecn=3),
    udp_frame(POD_A, STRANGER),
    udp_frame(POD_A6, STRANGER6),
    frame_of(packet_of(POD_A, POD_B, TCP, tcp(POD_A, POD_B, b"x" * 90, partial=True, options=b"\x01" * 12)), MAC_B),
    frame_of(packet_of(POD_A6, POD_B6, TCP, tcp(POD_A6, POD_B6, b"x" * 90, partial=True, flags=0x90)), MAC_B),
    frame_of(ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"x", partial=True), options=b"\x01" * 8)),
    frame_of(ipv4(POD_A, STRANGER, ICMP, echo(b"payload"))),
    frame_of(ipv4(POD_A, POD_B, UDP, bytes(64), fragment=0x2000 | 9)),
    frame_of(ipv6(POD_A6, STRANGER6, 44, pack("!BBHI", UDP, 0, 8 << 3 | 1, 7) + bytes(64))),
    frame_of(ipv6(POD_A6, POD_B6, 0, bytes([60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4]) + bytes(4) + bytes(16))),
    frame_of(ipv6(POD_A6, STRANGER6, ICMPV6, icmpv6(POD_A6, STRANGER6, 128, bytes(8)))),
    frame_of(solicitation(POD_B6, POD_A6, b"\x01\x01" + OWN_MAC.to_bytes(6, "big")), 0x3333FF00000D),
    frame_of(solicitation(POD_B6, POD_A6), MAC_B),
    ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B)),
    ethernet(MAC_B, OWN_MAC, 0x88CC, b"lldp"),
    frame_of(packet_of(POD_A, POD_B, TCP, tcp(POD_A, POD_B, b"x" * 700, partial=True)), MAC_B),
    frame_of(packet_of(POD_A6, POD_B6, TCP, tcp(POD_A6, POD_B6, b"x" * 1300, partial=True, flags=0x90)), MAC_B),
]
"""One frame of each kind that the rules distinguish."""

STREAMS = [TCP4, TCP6, UDP4, UDP6, replace(TCP4, options=TIMESTAMPS, flags=0x99), replace(UDP6, extensions=2)]
"""Flows of superframes."""


def damage(whole: bytes, rng: random.Random) -> bytes:
    """Change some bytes, mostly in the headers, and perhaps truncate or pad."""
    out = bytearray(whole)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        out[min(int(rng.expovariate(1 / 24)), len(out) - 1)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    cut = rng.choice([len(out)] * 4 + [rng.randrange(len(out) + 1)])
    return bytes(out[:cut]) + bytes(rng.choice([0, 0, 0, 18]))


def virtio_header(rng: random.Random) -> bytes:
    """Return mostly a plain header, sometimes one with a partial checksum anywhere, sometimes random bytes."""
    if rng.random() < 0.6:
        return bytes(10)
    if rng.random() < 0.7:
        return pack("<BBHHHH", 1, 0, 0, 0, rng.choice([34, 54, 14]), rng.choice([6, 16]))
    return rng.randbytes(10)


def encapsulated(frame: bytes, virtio: bytes, encap: Encap, now_us: int) -> tuple[int, bytes]:
    """Return the verdict on a frame, and everything that it left in the buffers."""
    verdict, _, placed = encap_frame(frame, encap, virtio, now_us)
    decided = (encap.vtep, encap.marks, encap.port, encap.gso_size, encap.csum_start) if verdict == 0 else ()
    answer = (encap.answer_at, encap.answer_len) if encap.answer_len else ()
    return verdict, repr((verdict, decided, answer)).encode() + placed.buf


def decapsulated(datagram: bytes, ecn: int, outer: str, check: int = CHECK_VTEP) -> tuple[int, bytes]:
    """Return the same for a datagram."""
    verdict, decap, placed = decap_datagram(datagram, from_outer(outer, ecn), check)
    if verdict != 0:
        return verdict, repr(verdict).encode() + placed.buf
    decided = decap.frame_at, decap.frame_len, decap.payload_at, decap.partial, decap.gso_type, decap.gso_size
    run = Coalescer(tcp=True, udp=True)
    run.start(placed.buf, 0, decap)
    return verdict, repr((verdict, decided, run.ended)).encode() + placed.buf


def cut_and_joined(rng: random.Random) -> tuple[int, bytes]:
    """Return the verdict on a superframe with its segments, and on such segments, some of them damaged."""
    stream = rng.choice(STREAMS)
    superframe, mss = stream.superframe(rng.randbytes(rng.randrange(1, 400))), rng.choice([1, 60, 100, 1398])
    virtio = rng.choice([stream.virtio(mss)] * 3 + [virtio_header(rng)])
    outcome = cut(damage(superframe, rng) if rng.random() < 1 / 2 else superframe, virtio, rng.choice([1, 64, 128]))
    segments = [
        segment if rng.random() < 7 / 8 else damage(segment, rng) for segment in stream.segments(bytes(300), 60)
    ]
    drops: list[int] = []
    writes = joined(segments, own_mac=MAC_B, drops=drops)
    return outcome.verdict, repr((outcome.trains, writes, drops)).encode()


def decisions(count: int, seed: int = 7348) -> Iterator[tuple[int, bytes]]:
    """Yield the decisions of both directions about `count` damaged frames each."""
    rng = random.Random(seed)  # noqa: S311  (repeatable, not secret)
    encap = Encap(VNI, 16)
    for i in range(count):
        frame = damage(rng.choice(FRAMES), rng)
        yield encapsulated(frame, virtio_header(rng), encap, 5_000_000_000 + i * 1_000_000 // 256)
        from_peer = bytearray(rng.choice(FRAMES))
        from_peer[:12] = OWN_MAC.to_bytes(6, "big") + rng.choice([MAC_B] * 9 + [OWN_MAC]).to_bytes(6, "big")
        outer = rng.choice([OUTER_B] * 9 + [OUTER_A])
        check = rng.choice([SourceCheck.VTEP] * 3 + [SourceCheck.STRICT])
        if i % 4 == 0:
            yield cut_and_joined(rng)
        yield decapsulated(damage(vxlan(bytes(from_peer)), rng), rng.randrange(4), outer, check)


if __name__ == "__main__":
    digest = hashlib.sha256(b"".join(left for _, left in decisions(5000)))
    print("compiled" if COMPILED else "interpreted", digest.hexdigest())  # noqa: T201  (its parent reads this)
