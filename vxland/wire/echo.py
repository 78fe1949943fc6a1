"""ICMP echo, RFC 792 and RFC 4443 section 4: what a ping is made of. Cold path: one message a call, built of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from vxland.wire.checksum import complement, sum_octets

HDR_LEN = 8
IP_LEN = {4: 20, 6: 40}
_HDR = Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}


@dataclass(frozen=True, slots=True)
class Echo:
    """One echo request or reply."""

    ident: int
    sequence: int
    payload: bytes


def build_request(version: int, echo: Echo) -> bytes:
    """An echo request; its checksum is left to the kernel in IPv6, where it covers addresses. RFC 3542 section 3.1."""
    head = _HDR.pack(_REQUEST[version], 0, 0, echo.ident, echo.sequence)
    if version == 4:
        octets = bytearray(head + echo.payload)
        checksum = complement(sum_octets(octets, 0, len(octets), 0))
        head = _HDR.pack(_REQUEST[4], 0, checksum, echo.ident, echo.sequence)
    return head + echo.payload


def parse_reply(version: int, message: bytes) -> Echo | None:
    """The echo reply that a message is; None for any other."""
    return _parse(message, _REPLY[version])


def parse_quoted_request(version: int, message: bytes) -> Echo | None:
    """Our echo request as an ICMP error quotes it, its payload as far as that was quoted; None for anything else."""
    return _parse(message, _REQUEST[version])


def _parse(message: bytes, kind: int) -> Echo | None:
    at = 0
    if message[:1] and message[0] >> 4 == 4:  # a raw socket shows the IPv4 header, and some errors either family's
        at = (message[0] & 0xF) * 4
    elif message[:1] and message[0] >> 4 == 6:
        at = IP_LEN[6]
    if len(message) < at + HDR_LEN:
        return None
    found, code, _, ident, sequence = _HDR.unpack_from(message, at)
    return Echo(ident, sequence, message[at + HDR_LEN :]) if (found, code) == (kind, 0) else None
