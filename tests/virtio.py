"""Bounds on the effect of a virtio header: an oracle that parses a frame's headers without code of the package."""

from __future__ import annotations

from struct import pack, unpack

from tests.frames import ETH_LEN, IPV4, IPV6, TCP, UDP, VIRTIO_LEN, VXLAN_LEN

GRE = 47
TAGS = {0x8100, 0x88A8}
CHECKSUMS = {TCP: 16, UDP: 6, GRE: 4}
MOST_SEGMENTS, LEAST_SEGMENT = 128, 36
"""Linux's limits for the segments that it leaves to a device."""
SLOT_LEN, MOST_COPIES = 256, 8


def own_l4(frame: bytes) -> tuple[int, int] | None:
    """Return protocol and offset of the L4 header of a frame's own packet, after tags; None if it has none."""
    at = ETH_LEN
    while len(frame) >= at and int.from_bytes(frame[at - 2 : at], "big") in TAGS:
        at += 4
    ethertype, packet = int.from_bytes(frame[at - 2 : at], "big"), frame[at:]
    if ethertype == IPV4 and len(packet) >= 20:
        is_fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        return None if is_fragment else (packet[9], at + (packet[0] & 15) * 4)
    if ethertype != IPV6 or len(packet) < 40:
        return None
    proto, l4 = packet[6], 40
    while proto in {0, 43, 44, 51, 60} and l4 + 8 <= len(packet):
        if proto == 44 and int.from_bytes(packet[l4 + 2 : l4 + 4], "big") & 0xFFF9:
            return None
        length = {44: 8, 51: (packet[l4 + 1] + 2) * 4}.get(proto, (packet[l4 + 1] + 1) * 8)
        proto, l4 = packet[l4], l4 + length
    return proto, at + l4


def own_checksum(frame: bytes) -> set[int]:
    """Return the offsets of the checksum field of a frame's own L4 protocol; none if it has none."""
    proto, l4_at = own_l4(frame) or (0, 0)
    return {l4_at + CHECKSUMS[proto], l4_at + CHECKSUMS[proto] + 1} if proto in CHECKSUMS else set()


def inner_checksum(virtio: bytes, frame: bytes) -> set[int]:
    """Return the offsets of an inner packet's checksum field if the virtio header names it; otherwise none."""
    start, offset = unpack("<HH", virtio[6:10])
    named = {start + offset, start + offset + 1}
    for at in range(ETH_LEN + 20, start - 19):
        ethertype = {4: IPV4, 6: IPV6}.get(frame[at] >> 4 if at < len(frame) else 0, 0)
        if {at - ETH_LEN + place for place in own_checksum(bytes(12) + pack("!H", ethertype) + frame[at:])} == named:
            return named
    return set()


def check_sent(virtio: bytes, frame: bytes, datagrams: list[bytes], *, tunnels: bool = False) -> None:
    """Compare sent datagrams with the frame that was read; with `tunnels` an inner packet's checksum may change too."""
    assert len(virtio) == VIRTIO_LEN
    sent = [datagram[VXLAN_LEN:] for datagram in datagrams]
    assert all(len(each) >= ETH_LEN for each in sent)
    if virtio[1] & 0x7F == 0:
        assert len(sent) <= 1
        for each in sent:
            assert len(each) == len(frame)
            changed = {at for at in range(6, len(frame)) if each[at] != frame[at]}  # the MAC may become the VTEP's
            assert not changed or virtio[0] & 1
            assert changed <= own_checksum(frame) or (tunnels and changed <= inner_checksum(virtio, frame))
    elif len(sent) > 1:
        l4_at = (own_l4(frame) or (0, 0))[1]
        for each in sent:  # addresses, options, extension headers and ports
            assert each[6:16] + each[26:l4_at] == frame[6:16] + frame[26:l4_at]
            assert each[l4_at : l4_at + 4] == frame[l4_at : l4_at + 4]
    if len(sent) > MOST_SEGMENTS:
        assert len(sent) <= len(frame) // LEAST_SEGMENT + 1
    assert sum(map(len, datagrams)) <= MOST_SEGMENTS * SLOT_LEN + (MOST_COPIES + 1) * len(frame)
