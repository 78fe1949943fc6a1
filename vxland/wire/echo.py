"""ICMP echo, RFC 792 and RFC 4443 section 4: the messages of a ping. Cold path: builds bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from vxland.wire.checksum import complement, sum_bytes

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
    """Return an echo request. In IPv6 the kernel writes the checksum, which covers addresses: RFC 3542 section 3.1."""
    head = _HDR.pack(_REQUEST[version], 0, 0, echo.ident, echo.sequence)
    if version == 4:
        raw = bytearray(head + echo.payload)
        checksum = complement(sum_bytes(raw, 0, len(raw), 0))
        head = _HDR.pack(_REQUEST[4], 0, checksum, echo.ident, echo.sequence)
    return head + echo.payload


def parse_reply(version: int, message: bytes) -> Echo | None:
    """Return the echo reply in a message, None for any other message."""
    return _parse(message, _REPLY[version])


def parse_quoted_request(version: int, message: bytes) -> Echo | None:
    """Return our echo request as an ICMP error quotes it, with a possibly truncated payload; None for anything else."""
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
