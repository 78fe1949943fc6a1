"""Flows as a pod's stack makes them: superframes behind their virtio header, and the segments that a device cuts.

Segments are built one by one from their fields with tests/frames.py; no code of the package has a part in it. The
second half hands frames to the package's own steps, as pump.py does, and takes apart what they leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import pack

from tests.frames import (
    ETH_LEN,
    IPV4,
    IPV6,
    MAC_B,
    OUTER_B,
    OVERLAY_MTU,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    TAILROOM,
    TCP,
    UDP,
    VIRTIO_LEN,
    VNI,
    Placed,
    ethernet,
    from_outer,
    ipv4,
    ipv6,
    peers_of_a,
    place,
    tcp,
    udp,
    vxlan,
)
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import SOURCE_CHECKS, Decap
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import Table
from vxland.datapath.train import Gather, Train
from vxland.datapath.verdict import FORWARD

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = (1 << bit for bit in range(9))
FIRST_ONLY, LAST_ONLY = CWR, FIN | PSH
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80
NOP = b"\x01"
TIMESTAMPS = NOP * 2 + bytes([8, 10]) + bytes(range(8))
EXTENSION = bytes([0, 1, 4, 0, 0, 0, 0])
"""Destination options (RFC 8200 section 4.6) of one padding option, less the next header."""

TABLE = peers_of_a()
FROM_B = from_outer(OUTER_B)
CHECK_VTEP = SOURCE_CHECKS.index("vtep")
CANARY = b"\xa5" * 64
SLOTS_LEN = 128 * 256
"""Scratch for the headers of as many segments as a train has."""
NOW_US = 5_000_000_000


def numbered(length: int) -> bytes:
    """Octets of which no two pieces nearby are alike."""
    return b"".join(i.to_bytes(3, "big") for i in range(length // 3 + 1))[:length]


@dataclass(frozen=True)
class Stream:
    """One direction of a flow between two pods, TCP or UDP by `proto`; IPv6 where `src` is."""

    src: str = POD_A
    dst: str = POD_B
    proto: int = TCP
    options: bytes = b""
    ip_options: bytes = b""
    extensions: int = 0
    tos: int = 0
    ttl: int = 63
    ident: int = 7
    fragment: int = 0x4000
    seq: int = 1000
    ack: int = 2000
    window: int = 501
    urgent: int = 0
    flags: int = ACK
    sport: int = 40000
    dst_mac: int = MAC_B
    src_mac: int = OWN_MAC

    @property
    def is_v6(self) -> bool:
        """Whether it is of the newer family."""
        return ":" in self.src

    @property
    def l4_at(self) -> int:
        """Where the TCP or UDP header lies in a frame."""
        return ETH_LEN + (40 + 8 * self.extensions if self.is_v6 else 20 + len(self.ip_options))

    @property
    def headers_len(self) -> int:
        """Octets before the payload."""
        return self.l4_at + (20 + len(self.options) if self.proto == TCP else 8)

    def packet(self, payload: bytes, sent: int, number: int, flags: int, partial: bool) -> bytes:
        """The IP packet that is `number` of its superframe, after `sent` octets of payload."""
        if self.proto == TCP:
            l4 = tcp(
                self.src,
                self.dst,
                payload,
                sport=self.sport,
                flags=flags,
                options=self.options,
                partial=partial,
                seq=self.seq + sent & 0xFFFF_FFFF,
                ack=self.ack,
                window=self.window,
                urgent=self.urgent,
            )
        else:
            l4 = udp(self.src, self.dst, payload, sport=self.sport, partial=partial)
        if self.is_v6:
            chain = [60] * self.extensions + [self.proto]
            l4 = b"".join(bytes([number]) + EXTENSION for number in chain[1:]) + l4
            return ipv6(self.src, self.dst, chain[0], l4, self.tos, self.ttl)
        ident = self.ident + number & 0xFFFF
        return ipv4(self.src, self.dst, self.proto, l4, self.tos, self.fragment, self.ip_options, self.ttl, ident)

    def frame(
        self, payload: bytes, sent: int = 0, number: int = 0, flags: int | None = None, partial: bool = False
    ) -> bytes:
        """The frame of such a packet."""
        packet = self.packet(payload, sent, number, self.flags if flags is None else flags, partial)
        return ethernet(self.dst_mac, self.src_mac, IPV6 if self.is_v6 else IPV4, packet)

    def superframe(self, payload: bytes) -> bytes:
        """What the stack hands to a device that cuts: one packet, its checksum just the pseudo-header's sum."""
        return self.frame(payload, partial=True)

    def virtio(self, mss: int, hdr_len: int | None = None) -> bytes:
        """The virtio header of a superframe; kernels differ about hdr_len, which means nothing to us."""
        gso_type = (GSO_TCPV6 if self.is_v6 else GSO_TCPV4) if self.proto == TCP else GSO_UDP_L4
        if self.proto == TCP and self.flags & CWR:
            gso_type |= GSO_ECN
        headers = self.headers_len if hdr_len is None else hdr_len
        return pack("<BBHHHH", 1, gso_type, headers, mss, self.l4_at, 16 if self.proto == TCP else 6)

    def segments(self, payload: bytes, mss: int) -> list[bytes]:
        """What a device makes of the superframe: each segment with headers and checksums of its own."""
        out = []
        for number, sent in enumerate(range(0, len(payload), mss)):
            flags = self.flags
            if sent:
                flags &= ~FIRST_ONLY
            if sent + mss < len(payload):
                flags &= ~LAST_ONLY
            out.append(self.frame(payload[sent : sent + mss], sent, number, flags))
        return out


TCP4, TCP6 = Stream(), Stream(POD_A6, POD_B6)
UDP4, UDP6 = Stream(proto=UDP), Stream(POD_A6, POD_B6, proto=UDP)
EACH = {
    "TCP4": replace(TCP4, options=TIMESTAMPS, flags=ACK | PSH),
    "TCP6": replace(TCP6, tos=2),
    "UDP4": UDP4,
    "UDP6": UDP6,
}
"""One of each kind, with options, a flag and an ECN field among them."""


def reverse(stream: Stream) -> Stream:
    """The same from B's pod to A's."""
    return replace(stream, src=stream.dst, dst=stream.src, src_mac=stream.dst_mac, dst_mac=stream.src_mac)


def encap_frame(
    frame: bytes,
    encap: Encap | None = None,
    virtio: bytes = bytes(VIRTIO_LEN),
    now_us: int = NOW_US,
    after: bytes = bytes(TAILROOM),
) -> tuple[int, Encap, Placed]:
    """The decision about a frame, who took it, and the buffer it lies in."""
    encap, placed = encap or Encap(VNI, 16), place(frame, virtio, after)
    return encap.encap(placed.buf, placed.at, placed.length, TABLE, now_us), encap, placed


def decap_datagram(
    datagram: bytes,
    told: Datagram = FROM_B,
    mtu: int = OVERLAY_MTU,
    check: int = CHECK_VTEP,
    table: Table = TABLE,
    after: bytes = bytes(TAILROOM),
) -> tuple[int, Decap, Placed]:
    """The decision about a datagram to node A, who took it, and the buffer it lies in."""
    decap, placed = Decap(VNI, OWN_MAC, mtu, check), place(datagram, after=after)
    return decap.decap(placed.buf, placed.at, placed.length, told, table), decap, placed


def gathered(buf: bytearray, ranges: Gather) -> bytes:
    """What sendmsg or writev would take."""
    spans = ((ranges.at[i], ranges.length[i]) for i in range(ranges.count))
    return b"".join(bytes(buf[at : at + length]) for at, length in spans)


@dataclass
class Cut:
    """What became of a superframe: its trains, each a list of datagrams, or None where it was refused."""

    verdict: int
    trains: list[list[bytes]] | None

    @property
    def frames(self) -> list[bytes]:
        """The inner frames in order, without their VXLAN headers."""
        datagrams = [datagram for train in self.trains or () for datagram in train]
        assert all(datagram[:8] == vxlan(b"") for datagram in datagrams)
        return [datagram[8:] for datagram in datagrams]


def cut(frame: bytes, virtio: bytes, max_datagrams: int = 128, after: bytes = CANARY) -> Cut:
    """Encap and Segmenter over one superframe, as the pump runs them; canaries around the frame and the scratch."""
    head = CANARY[:54] + virtio
    scratch_at = len(head) + len(frame) + len(after)
    buf = bytearray(head + frame + after + bytes(SLOTS_LEN) + CANARY)
    encap, train, segmenter = Encap(VNI, 16), Train(max_datagrams), Segmenter(scratch_at)
    verdict = encap.encap(buf, len(head), len(frame), TABLE, NOW_US)
    if verdict != FORWARD or not encap.gso_size:
        return Cut(verdict, [[bytes(buf[len(head) - 8 : len(head) + len(frame)])]] if verdict == FORWARD else None)
    before = bytes(buf[:scratch_at])
    if not segmenter.open(buf, len(head), encap.ip, encap.csum_start, encap.gso_size):
        assert buf[:scratch_at] == before
        return Cut(verdict, None)
    trains = []
    while not segmenter.done():
        train.begin(encap.vtep, encap.marks, encap.port, segmenter.datagram_len())
        segmenter.fill(buf, train)
        octets = gathered(buf, train.ranges)
        assert 0 < len(octets) == train.ranges.octets <= 65_507
        assert 0 < train.datagrams <= max_datagrams
        trains.append([octets[at : at + train.size] for at in range(0, len(octets), train.size)])
        assert len(trains[-1]) == train.datagrams
    assert buf[:scratch_at] == before
    assert buf[scratch_at + SLOTS_LEN :] == CANARY
    return Cut(verdict, trains)


def joined(
    frames: Sequence[bytes],
    run: Coalescer | None = None,
    inner_stride: int = 0,
    own_mac: int = OWN_MAC,
    between: bytes = CANARY,
    drops: list[int] | None = None,
) -> list[bytes]:
    """Decap and Coalescer over frames that came one by one, as the pump runs them: what the TAP is given, in order.

    The frames lie in one buffer with canaries between them, which may not change. None is dropped unless `drops` is
    there to take the reasons.
    """
    decap = Decap(VNI, own_mac, OVERLAY_MTU, CHECK_VTEP)
    run = Coalescer(tcp=True, udp=True) if run is None else run
    buf, places = bytearray(10) + between, []
    for frame in frames:
        places.append(len(buf))
        buf += vxlan(frame) + between
    writes = []

    def write() -> None:
        if run.segments:
            run.finish(buf)
            writes.append(gathered(buf, run.ranges))
            run.clear()

    for at, frame in zip(places, frames, strict=True):
        if inner_stride:
            assert decap.stride_of(buf, at, len(frame) + 8, inner_stride) == len(frame) + 8
        verdict = decap.decap(buf, at, len(frame) + 8, FROM_B, TABLE)
        if verdict != FORWARD:
            assert drops is not None
            drops.append(verdict)
        elif run.segments == 0 or not run.join(buf, decap):
            write()
            run.start(buf, 0, decap)
        if run.ended:
            write()
    write()
    for at, frame in zip(places, frames, strict=True):
        assert buf[at - len(between) : at] == between
        assert buf[at + 8 + len(frame) :][: len(between)] == between
    return writes
