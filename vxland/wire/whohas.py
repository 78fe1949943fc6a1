"""A VXLAN datagram with a neighbour request for an overlay address, and the answer to it.

ARP (RFC 826) for IPv4, neighbour solicitation (RFC 4861 section 4.3) for IPv6, to the broadcast or multicast address,
so the request needs no knowledge of the station's MAC. Cold path: it builds bytes.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from vxland.model.lease import Address, Mac
from vxland.wire.checksum import complement, sum_bytes
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header

_ARP = b"\x00\x01\x08\x00\x06\x04"  # hardware 1, protocol 0x0800, lengths 6 and 4
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"
_BROADCAST = b"\xff" * 6
_ICMPV6, _HOP_LIMIT = b"\x3a", b"\xff"
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")  # RFC 4291 section 2.7.1; three bytes of the address
_SOURCE_MAC, _TARGET_MAC = b"\x01\x01", b"\x02\x01"

TYPE_OFF = 12  # where in the frame an ANSWER starts
ANSWER_LEN = 86  # bytes of a frame that hold all of an answer
ANSWER = re.compile(
    b"\x08\x06" + _ARP + _REPLY + b"(?P<mac4>.{6})(?P<ip4>.{4})"
    b"|\x86\xdd.{6}" + _ICMPV6 + _HOP_LIMIT + b".{32}\x88\x00.{6}(?P<ip6>.{16})" + _TARGET_MAC + b"(?P<mac6>.{6})",
    re.DOTALL,
)


def build_question(vni: int, mac: Mac, source: Address, target: Address) -> bytes:
    """Return the datagram with which the station `mac` at `source` requests `target`, of the same family."""
    datagram = bytearray(VXLAN_LEN)
    put_header(datagram, 0, vni)
    own = mac.value.to_bytes(6, "big")
    if target.version == 4:
        arp = _ARP + _REQUEST + own + source.packed + bytes(6) + target.packed
        return bytes(datagram) + _BROADCAST + own + b"\x08\x06" + arp
    group = _SOLICITED_NODE + target.packed[13:]
    body = bytearray(b"\x87\x00\x00\x00" + bytes(4) + target.packed + _SOURCE_MAC + own)
    pseudo = bytearray(source.packed + group + len(body).to_bytes(4, "big") + bytes(3) + _ICMPV6)
    checksum = complement(sum_bytes(body, 0, len(body), sum_bytes(pseudo, 0, len(pseudo), 0)))
    body[2:4] = checksum.to_bytes(2, "big")
    ip = b"\x60\x00\x00\x00" + len(body).to_bytes(2, "big") + _ICMPV6 + _HOP_LIMIT + source.packed + group
    return bytes(datagram) + b"\x33\x33" + group[12:] + own + b"\x86\xdd" + ip + bytes(body)


def read_answer(found: re.Match[bytes]) -> tuple[Address, Mac]:
    """Return the address and MAC in a match of ANSWER."""
    address = found["ip4"] or found["ip6"]
    return ip_address(address), Mac(int.from_bytes(found["mac4"] or found["mac6"], "big"))
