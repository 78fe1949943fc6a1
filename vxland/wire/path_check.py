"""Datagrams of `vxlandctl test` between two vxlands: a request, and a reply that is never longer.

     0  8  MAGIC
     8  1  kind: 1 request, 2 reply
     9  1  flags: 1 the reply shall have no UDP checksum, 2 the reply shall have counters
    10  2  zero
    12 16  token, echoed
    28  8  UDP datagrams with a bad checksum that the replying node's kernel has counted
    36  8  TCP segments with a bad checksum that it has counted
    44  .  padding, echoed

Only a request is answered, so a forged sender cannot make two nodes answer each other without end. Cold path.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

MAGIC: Final = b"vxland/1"
HDR_LEN: Final = 44
TOKEN_LEN: Final = 16
WITHOUT_CHECKSUM: Final = 1
WITH_COUNTERS: Final = 2

_REQUEST, _REPLY = 1, 2
_HDR = Struct("!8sBBH16sQQ")
_MOST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Request:
    """A request: its flags and its token."""

    flags: int
    token: bytes


@dataclass(frozen=True, slots=True)
class BadChecksums:
    """Packets with a bad checksum that a kernel has counted, since it started."""

    udp: int = 0
    tcp: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: the token of its request, and the counters if they were asked for, else zeros."""

    token: bytes
    bad: BadChecksums


def build_request(request: Request, length: int) -> bytes:
    """Return a request of this length in bytes, HDR_LEN or more."""
    head = _HDR.pack(MAGIC, _REQUEST, request.flags, 0, request.token, 0, 0)
    return head + _padding(request.token, length - HDR_LEN)


def parse_request(datagram: bytes) -> Request | None:
    """Return the request; None for any other datagram."""
    if len(datagram) < HDR_LEN:
        return None
    magic, kind, flags, zero, token, _, _ = _HDR.unpack_from(datagram)
    return Request(flags, token) if (magic, kind, zero) == (MAGIC, _REQUEST, 0) else None


def build_reply(datagram: bytes, bad: BadChecksums) -> bytes:
    """Return the reply to a request that parse_request() has accepted: as long, with its token and its padding."""
    _, _, flags, _, token, _, _ = _HDR.unpack_from(datagram)
    head = _HDR.pack(MAGIC, _REPLY, flags, 0, token, min(bad.udp, _MOST), min(bad.tcp, _MOST))
    return head + datagram[HDR_LEN:]


def parse_reply(datagram: bytes) -> Reply | None:
    """Return the reply; None for any other datagram, or changed padding."""
    if len(datagram) < HDR_LEN:
        return None
    magic, kind, _, _, token, udp, tcp = _HDR.unpack_from(datagram)
    if (magic, kind) != (MAGIC, _REPLY) or datagram[HDR_LEN:] != _padding(token, len(datagram) - HDR_LEN):
        return None
    return Reply(token, BadChecksums(udp, tcp))


def _padding(token: bytes, length: int) -> bytes:
    """Return bytes that follow from the token, so that a reply with changed content is not taken for a good one."""
    return (token * (length // TOKEN_LEN + 1))[:length]
