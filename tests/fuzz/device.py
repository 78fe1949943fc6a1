"""Oracle for writes to the TAP: the frames that a network device makes of them, without code of the package.

Linux: virtio_net_hdr_to_skb (include/linux/virtio_net.h), tcp_gso_segment, __udp_gso_segment.
"""

from __future__ import annotations

from struct import pack, unpack

from tests.frames import ETH_LEN, IPV4, IPV6, TCP

VIRTIO_LEN = 10
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80
CWR, FIN_PSH = 0x80, 0x09
TCP_CHECKSUM_OFF = 16


def word_sum(raw: bytes) -> int:
    """RFC 1071, in one go; all ones and zero are one number to it, and this gives ones unless all bytes are zero."""
    total = int.from_bytes(raw + bytes(len(raw) % 2), "big")
    return (total - 1) % 0xFFFF + 1 if total else 0


def on_the_wire(write: bytes) -> list[bytes]:
    """The frames of one write, cut and with finished checksums; AssertionError where the kernel would refuse it."""
    flags, gso_type, hdr_len, gso_size, start, offset = unpack("<BBHHHH", write[:VIRTIO_LEN])
    frame = write[VIRTIO_LEN:]
    assert len(frame) >= ETH_LEN
    assert flags & ~NEEDS_CSUM == 0
    if flags:
        assert start + offset + 2 <= len(frame)
    if gso_type == 0:
        return [_finished(frame, start, offset) if flags else frame]
    assert gso_type & ~GSO_ECN in {GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4}
    assert flags
    assert gso_size > 0
    headers_len = start + (8 if gso_type == GSO_UDP_L4 else (frame[start + 12] >> 4) * 4)
    assert headers_len == hdr_len <= len(frame)
    payload = frame[headers_len:]
    return [
        _segment(
            frame[:headers_len],
            payload[at : at + gso_size],
            start,
            offset,
            at,
            at // gso_size,
            at + gso_size >= len(payload),
        )
        for at in range(0, max(len(payload), 1), gso_size)
    ]


def _segment(headers: bytes, payload: bytes, start: int, offset: int, sent: int, number: int, last: bool) -> bytes:
    """One segment: lengths, IPv4's ID and checksum, TCP's sequence number and flags, or UDP's length, and L4's sum."""
    out = bytearray(headers)
    whole_sum = out[start + offset : start + offset + 2]
    packet_len = len(headers) - ETH_LEN + len(payload)
    old_l4_len = 0
    if out[ETH_LEN] >> 4 == 4:
        old_l4_len = int.from_bytes(out[16:18], "big") - (start - ETH_LEN)
        out[16:18] = packet_len.to_bytes(2, "big")
        out[18:20] = (int.from_bytes(out[18:20], "big") + number & 0xFFFF).to_bytes(2, "big")
        out[24:26] = b"\0\0"
        out[24:26] = (word_sum(bytes(out[ETH_LEN : ETH_LEN + (out[ETH_LEN] & 15) * 4])) ^ 0xFFFF).to_bytes(2, "big")
    else:
        old_l4_len = int.from_bytes(out[18:20], "big") + 40 - (start - ETH_LEN)
        out[18:20] = (packet_len - 40).to_bytes(2, "big")
    l4_len = len(headers) - start + len(payload)
    if offset == 6:
        out[start + 4 : start + 6] = l4_len.to_bytes(2, "big")
    else:
        out[start + 4 : start + 8] = (int.from_bytes(out[start + 4 : start + 8], "big") + sent & 0xFFFF_FFFF).to_bytes(
            4, "big"
        )
        if sent:
            out[start + 13] &= ~CWR & 0xFF
        if not last:
            out[start + 13] &= ~FIN_PSH & 0xFF
    # The field holds the pseudo-header's sum, with the superframe's length: the segment's takes its place.
    pseudo = word_sum(bytes(whole_sum) + pack("!HH", ~old_l4_len & 0xFFFF, l4_len))
    out[start + offset : start + offset + 2] = pseudo.to_bytes(2, "big")
    return _finished(bytes(out) + payload, start, offset)


def _finished(frame: bytes, start: int, offset: int) -> bytes:
    """With the checksum that a pseudo-header's sum stood for; zero is written as ones, as skb_checksum_help does."""
    value = word_sum(frame[start:]) ^ 0xFFFF or 0xFFFF
    return frame[: start + offset] + value.to_bytes(2, "big") + frame[start + offset + 2 :]


def essence(frame: bytes) -> bytes:
    """Without what pads the frame behind its IP packet; a TCP checksum of ones as zero, which is the same number.

    A device computes new checksums, and does not know which of the two the sender wrote.
    """
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == IPV4 and len(frame) >= ETH_LEN + 20:
        frame = frame[: ETH_LEN + int.from_bytes(frame[16:18], "big")]
        proto, at = frame[23], ETH_LEN + (frame[ETH_LEN] & 15) * 4
    elif ethertype == IPV6 and len(frame) >= ETH_LEN + 40:
        frame = frame[: ETH_LEN + 40 + int.from_bytes(frame[18:20], "big")]
        proto, at = frame[20], ETH_LEN + 40
        while proto in {0, 60} and at + 8 <= len(frame):
            proto, at = frame[at], at + 8 + frame[at + 1] * 8
    else:
        return frame
    at += TCP_CHECKSUM_OFF
    return frame[:at] + b"\0\0" + frame[at + 2 :] if proto == TCP and frame[at : at + 2] == b"\xff\xff" else frame
