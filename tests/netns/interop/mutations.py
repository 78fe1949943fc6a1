"""Frames of every kind that a VTEP distinguishes, sound and mutated, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack

from tests.frames import (
    ARP,
    BROADCAST,
    ICMPV6,
    TCP,
    UDP,
    arp,
    echo,
    ethernet,
    frame_of,
    icmpv6,
    ipv4,
    ipv6,
    packet_of,
    solicitation,
    tcp,
    udp,
)

OWN, PEER, NOBODY = 0xCE5FF673CFB9, 0x3A87CF816ACE, 0x020000007777
"""The MACs of both devices under test, of the peer of both, and one that neither knows."""
NEAR, FAR, UNKNOWN = "10.244.0.19", "10.244.1.13", "10.9.9.9"
NEAR6, FAR6, UNKNOWN6 = "fd00:10:244:10::19", "fd00:10:244:11::13", "fd00:9::9"
SEPARATOR = 0x88B5  # IEEE 802: local experimental
LONGEST = 1464 - 8  # bytes of a frame whose datagram fits an MTU of 1500


@dataclass(frozen=True)
class Mutant:
    """A datagram, and the outer ECN field and checksum that it is sent with."""

    content: bytes
    ecn: int
    checksum: bool


def frames(rng: random.Random, src: int, dst: int) -> bytes:
    """Return one frame, sound or mutated, from `src` to `dst` unless the mutation changed the MACs."""
    near, far = rng.choice([(NEAR, FAR)] * 4 + [(NEAR6, FAR6)] * 4 + [(NEAR, UNKNOWN), (NEAR6, UNKNOWN6)])
    tos, content = rng.choice([0, 0, 1, 2, 3, 0xB8, 0xBA, 0xBB]), rng.randbytes(rng.choice([0, 1, 40, 64, 700, 1300]))
    sport = rng.randrange(1024, 65536)
    v6 = ":" in near
    kind = rng.randrange(11)
    if kind < 3:
        frame = frame_of(packet_of(near, far, UDP, udp(near, far, content, sport=sport), tos), dst, src)
    elif kind < 6:
        frame = frame_of(packet_of(near, far, TCP, tcp(near, far, content, sport=sport), tos), dst, src)
    elif kind == 6:
        l4 = icmpv6(near, far, 128, content) if v6 else echo(content)
        frame = frame_of(packet_of(near, far, ICMPV6 if v6 else 1, l4, tos), dst, src)
    elif kind == 7:  # a fragment, or options, or extension headers
        if v6:
            piece = rng.choice(
                [pack("!BBHI", UDP, 0, rng.choice([1, 8, 9, 1480]), 7), bytes([UDP, 0, 1, 4, 0, 0, 0, 0])]
            )
            packet = ipv6(near, far, rng.choice([44, 0, 60]), piece + content, tos)
        else:
            fragment, options = rng.choice([(0x2000, b""), (0x2009, b""), (9, b""), (0, b"\x01" * 8)])
            packet = ipv4(near, far, UDP, udp(near, far, content, sport=sport), tos, fragment, options)
        frame = frame_of(packet, dst, src)
    elif kind == 8:
        target = rng.choice([FAR, FAR, UNKNOWN])
        frame = ethernet(rng.choice([BROADCAST, dst]), src, ARP, arp(rng.choice([1, 1, 2]), src, NEAR, target))
    elif kind == 9:
        packet = solicitation(rng.choice([FAR6, FAR6, UNKNOWN6]), NEAR6, b"\x01\x01" + src.to_bytes(6, "big"))
        frame = frame_of(packet, rng.choice([dst, 0x3333FF000013]), src)
    else:
        frame = ethernet(dst, src, rng.choice([0x88CC, 0x0800, 0x86DD, 0, 46]), content)
    return mutated(rng, frame)


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """Return the frame with none or one to three changes."""
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        what, out = rng.randrange(9), bytearray(frame)
        if what < 3 and len(out) > 14:  # the IP header, mostly
            out[14 + int(rng.expovariate(1 / 12)) % (len(out) - 14)] = rng.choice(
                [0, 1, 0x45, 0x60, 0xFF, rng.randrange(256)]
            )
        elif what == 3 and len(out) > 18:  # lengths
            at = rng.choice([16, 18])
            out[at : at + 2] = rng.choice([0, 19, 20, len(out) - 14, len(out) - 13, len(out) - 54, 0xFFFF]).to_bytes(
                4, "big", signed=True
            )[2:]
        elif what == 4:
            at = rng.choice([0, 6])
            out[at : at + 6] = rng.choice([OWN, PEER, NOBODY, BROADCAST, 0x01005E000001, 0]).to_bytes(6, "big")
        elif what == 5:  # a VLAN tag, or two
            out[12:12] = pack("!HH", rng.choice([0x8100, 0x8100, 0x88A8]), rng.choice([0, 1, 2, 3, 100, 0xE00F]))
        elif what == 6:
            del out[rng.randrange(len(out) + 1) :]
        elif what == 7:
            out += bytes(rng.choice([1, 6, 18, 64]))
        elif len(out) > 40:  # checksums, addresses, ports, TCP's flags
            out[rng.randrange(24, min(len(out), 70))] ^= 1 << rng.randrange(8)
        frame = bytes(out[:LONGEST])
    return frame


def datagrams(rng: random.Random) -> Iterator[Mutant]:
    """Yield datagrams for a device, without end."""
    while True:
        frame = frames(rng, rng.choice([PEER] * 6 + [NOBODY, OWN]), rng.choice([OWN] * 6 + [NOBODY, BROADCAST]))
        head = bytearray(b"\x08\0\0\0\0\0\1\0")
        if rng.random() < 0.25:
            at = rng.randrange(8)
            head[at] = rng.choice(
                [0, 1, 2, 0x04, 0x08, 0x0C, 0x18, 0x48, 0x80, 0x88, 0xFF, head[at] ^ 1 << rng.randrange(8)]
            )
        content = bytes(head) + frame
        if rng.random() < 0.04:
            content = content[: rng.randrange(30)]
        yield Mutant(content, rng.choice([0, 0, 1, 2, 3]), rng.random() < 0.9)


def device_frames(rng: random.Random) -> Iterator[bytes]:
    """Yield frames for the host to pass to a device, without end: from its MAC, not too short, within its MTU."""
    while True:
        frame = frames(rng, OWN, rng.choice([PEER] * 5 + [NOBODY]))
        if 14 <= len(frame) <= 14 + 1400 and frame[12:14] != SEPARATOR.to_bytes(2, "big"):
            yield frame
