"""Intended differences between vxland and a kernel vxlan device: docs/architecture.md names each with its reason.

A decision here is the name of its row there, and a test of whether it explains a difference. Each is as narrow as
possible: an unexplained difference is a bug. Packets are judged from their bytes, without any code of vxland.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from tests.frames import ARP, ETH_LEN, ICMP, ICMPV6, IPV4, IPV6

from .mutations import PEER, Mutant
from .side_by_side import Encapsulated

_LEASED = [ip_network("10.244.1.0/24"), ip_network("fd00:10:244:11::/64")]
_TAGS = {0x8100, 0x88A8}
_EXTENSIONS, _FRAGMENT, _AUTH = {0, 43, 44, 51, 60}, 44, 51
_MOST_EXTENSIONS = 8
_ECT_1, _ECT_0, _CE = 1, 2, 3  # RFC 3168 section 5; the kernel never sends an outer CE


@dataclass(frozen=True)
class Packet:
    """The fields of a frame."""

    dst_mac: int
    ethertype: int
    sound: bool
    """True if the frame has an IP packet whose headers agree with each other and with the frame's length."""
    malformed: bool
    """True if the frame has an IP EtherType and an invalid packet."""
    ecn: int = 0
    src: str = ""
    dst: str = ""
    payload: bytes = b""
    proto: int = 0

    @property
    def leased(self) -> bool:
        """True if the destination belongs to the peer."""
        return self.sound and any(ip_address(self.dst) in subnet for subnet in _LEASED)


def look(frame: bytes) -> Packet:
    """Return the packet of a frame."""
    dst_mac, ethertype, packet = int.from_bytes(frame[:6], "big"), int.from_bytes(frame[12:14], "big"), frame[ETH_LEN:]
    found = Packet(dst_mac, ethertype, sound=False, malformed=ethertype in {IPV4, IPV6})
    if ethertype == IPV4 and len(packet) >= 20 and packet[0] >> 4 == 4:
        head_len, total_len = packet[0] % 16 * 4, int.from_bytes(packet[2:4], "big")
        if 20 <= head_len <= total_len <= len(packet):
            src, dst = (str(ip_address(packet[at : at + 4])) for at in (12, 16))
            payload = packet[head_len:total_len]
            return replace(
                found,
                sound=True, malformed=False, ecn=packet[1] % 4, src=src, dst=dst, payload=payload, proto=packet[9],
            )  # fmt: skip
    if ethertype == IPV6 and len(packet) >= 40 and packet[0] >> 4 == 6:
        rest = packet[40 : 40 + int.from_bytes(packet[4:6], "big")]
        behind = _behind_extensions(packet[6], rest)
        if len(rest) == int.from_bytes(packet[4:6], "big") and behind is not None:
            src, dst = (str(ip_address(packet[at : at + 16])) for at in (8, 24))
            proto, payload = behind
            return replace(
                found,
                sound=True, malformed=False, ecn=packet[1] >> 4 & 3, src=src, dst=dst, payload=payload, proto=proto,
            )  # fmt: skip
    return found


def _behind_extensions(proto: int, rest: bytes) -> tuple[int, bytes] | None:
    """Return the protocol after IPv6 extension headers, and its bytes; None if a header overruns the packet."""
    for _ in range(_MOST_EXTENSIONS + 1):
        if proto not in _EXTENSIONS:
            return proto, rest
        if len(rest) < 8:
            return None
        if proto == _FRAGMENT and int.from_bytes(rest[2:4], "big") & 0xFFF9:
            return rest[0], b""
        length = 8 if proto == _FRAGMENT else (rest[1] + 2) * 4 if proto == _AUTH else (rest[1] + 1) * 8
        if length > len(rest):
            return None
        proto, rest = rest[0], rest[length:]
    return proto, b""


# Datagrams from the underlay: the kernel's result, and vxland's.

DecapPredicate = Callable[[Mutant, list[bytes], list[bytes]], bool]


def malformed_dropped(mutant: Mutant, kernels: list[bytes], ours: list[bytes]) -> bool:
    """The kernel passes on an IP packet with a wrong length; vxland does not."""
    return len(kernels) == 1 and ours == [] and look(mutant.content[8:]).malformed


DECAP: dict[str, DecapPredicate] = {"inner headers with a wrong length": malformed_dropped}

RESERVED = "reserved bits on receive"


def without_reserved(mutant: Mutant) -> Mutant | None:
    """Return the datagram as a receiver that ignores reserved bits sees it; None without set ones or a valid VNI."""
    head = mutant.content[:8]
    if len(head) < 8 or not head[0] & 0x08:
        return None
    cleared = b"\x08\0\0\0" + head[4:7] + b"\0"
    return None if cleared == head else replace(mutant, content=cleared + mutant.content[8:])


def no_ethernet(mutant: Mutant) -> bool:
    """Return whether it is VXLAN-GPE with another payload, whose bits count: its P flag, and the next bits."""
    return bool(mutant.content[0] & 0x04) and mutant.content[3] != 3


# Frames from the host: the kernel's result, and vxland's.

EncapPredicate = Callable[[bytes, Encapsulated, Encapsulated], bool]


def _differ_in_tos(kernels: Encapsulated, ours: Encapsulated, theirs: set[int], tos: int) -> bool:
    """Return whether only the outer TOS differs: the kernel's is one of `theirs`, and ours is `tos`."""
    return (
        len(kernels.datagrams) == 1
        and ours == Encapsulated([replace(kernels.datagrams[0], tos=tos)], [])
        and kernels.datagrams[0].tos in theirs
    )


def ce_stays(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """Outer CE where the kernel has ECT(0)."""
    packet = look(frame)
    return packet.sound and packet.ecn == _CE and _differ_in_tos(kernels, ours, {_ECT_0}, _CE)


def tags_hide_ip(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """The kernel looks for an IP header behind VLAN tags."""
    ethertype, at = look(frame).ethertype, ETH_LEN
    if ethertype not in _TAGS:
        return False
    while ethertype in _TAGS:
        ethertype, at = int.from_bytes(frame[at + 2 : at + 4], "big"), at + 4
    return _sent_as_it_is(frame[at:], ethertype, frame, kernels, ours)


def malformed_sent(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """The kernel reads only the part of the IP header that it needs."""
    packet = look(frame)
    return packet.malformed and _sent_as_it_is(frame[ETH_LEN:], packet.ethertype, frame, kernels, ours)


def _sent_as_it_is(packet: bytes, ethertype: int, frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """To the peer's MAC: the kernel copies an ECN field, or drops if shorter than an IP header; vxland sends ECN 0."""
    if look(frame).dst_mac != PEER:
        return False
    if kernels.datagrams == [] and len(packet) < {IPV4: 20, IPV6: 40}.get(ethertype, 0):
        return [(each.tos, each.payload[8:]) for each in ours.datagrams] == [(0, frame)] and ours.answers == []
    return _differ_in_tos(kernels, ours, {_ECT_1, _ECT_0}, 0)


def question_answered(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """An ARP request or neighbour solicitation for the peer's subnet: one answer to the asker, and nothing sent."""
    packet, (answer, *more) = look(frame), ours.answers or [b""]
    if more or ours.datagrams or len(kernels.datagrams) > 1:
        return False
    reply = look(answer)
    asker = frame[22:28] if packet.ethertype == ARP else frame[6:12]
    if answer[:6] != asker:
        return False
    if packet.ethertype == ARP:
        asks = frame[14:22] == b"\0\1\x08\0\6\4\0\1" and ip_address(frame[38:42]) in _LEASED[0]
        return asks and reply.ethertype == ARP and answer[20:22] == b"\0\2" and answer[28:32] == frame[38:42]
    asks = packet.proto == ICMPV6 and packet.payload[:1] == b"\x87" and ip_address(packet.payload[8:24]) in _LEASED[1]
    return (
        asks and reply.proto == ICMPV6 and reply.payload[:1] == b"\x88" and reply.payload[8:24] == packet.payload[8:24]
    )


def sent_by_address(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """To a unicast MAC of no VTEP, and an address of the peer's: sent with the peer's MAC."""
    packet = look(frame)
    sent = [(each.tos, each.payload[8:]) for each in ours.datagrams]
    return (
        kernels.datagrams == []
        and packet.dst_mac != PEER
        and not packet.dst_mac >> 40 & 1
        and packet.leased
        and sent == [(packet.ecn, PEER.to_bytes(6, "big") + frame[6:])]
        and ours.answers == []
    )


def unreachable_sent(frame: bytes, kernels: Encapsulated, ours: Encapsulated) -> bool:
    """To a unicast MAC of no VTEP, and an address without a lease: an ICMP error to the sender."""
    packet, (answer, *more) = look(frame), ours.answers or [b""]
    if more or kernels.datagrams or ours.datagrams or packet.dst_mac == PEER or packet.dst_mac >> 40 & 1:
        return False
    reply = look(answer)
    error = (ICMP, 3) if packet.ethertype == IPV4 else (ICMPV6, 1)
    return (
        packet.sound
        and not packet.leased
        and (reply.dst, answer[:6]) == (packet.src, frame[6:12])
        and (reply.proto, reply.payload[0]) == error
        and frame[ETH_LEN:].startswith(reply.payload[8:])
    )


ENCAP: dict[str, EncapPredicate] = {
    "outer ECN of an inner CE packet": ce_stays,
    "the host's frames with VLAN tags": tags_hide_ip,
    "the host's malformed packets": malformed_sent,
    "ARP requests and neighbour solicitations": question_answered,
    "a destination MAC of no VTEP": sent_by_address,
    "a destination without a lease": unreachable_sent,
}
