"""Errors of datagrams that did not arrive: the error queue of a socket with IP_RECVERR, ip(7) and ipv6(7)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct

from vxland.model.lease import Address

MAX_ERRORS = 64  # read per call: a flood of them must not block the event loop

_IP_RECVERR = 11  # linux/in.h, not in the socket module
_IPV6_RECVERR = 25  # linux/in6.h
_EXTENDED = Struct("=IBBBBII")  # linux/errqueue.h: errno, origin, type, code, padding, info, data
_ORIGIN_LOCAL = 1
_ICMP, _ICMPV6 = 2, 3  # origins
_REASONS = {  # by origin, type and code: RFC 792, RFC 1812 section 5.2.7.1, RFC 4443 section 3.1
    (_ICMP, 3, 0): "ICMP network unreachable",
    (_ICMP, 3, 1): "ICMP host unreachable",
    (_ICMP, 3, 2): "ICMP protocol unreachable",
    (_ICMP, 3, 3): "ICMP port unreachable",
    (_ICMP, 3, 9): "ICMP administratively prohibited",
    (_ICMP, 3, 10): "ICMP administratively prohibited",
    (_ICMP, 3, 13): "ICMP administratively prohibited",
    (_ICMP, 11, 0): "ICMP time exceeded: a routing loop?",
    (_ICMPV6, 1, 0): "ICMPv6 no route",
    (_ICMPV6, 1, 1): "ICMPv6 administratively prohibited",
    (_ICMPV6, 1, 3): "ICMPv6 address unreachable",
    (_ICMPV6, 1, 4): "ICMPv6 port unreachable",
    (_ICMPV6, 1, 5): "ICMPv6 administratively prohibited",
    (_ICMPV6, 1, 6): "ICMPv6 reject route",
    (_ICMPV6, 3, 0): "ICMPv6 time exceeded: a routing loop?",
}
_QUOTED_LEN = 256  # enough to identify our packet
_ANCILLARY_LEN = 512


@dataclass(frozen=True, slots=True)
class Failure:
    """One datagram that did not arrive: its destination, the reason, and the reporter (`offender`; None: this node)."""

    destination: Address
    errno: int
    info: int
    """With EMSGSIZE, the size in bytes that passes."""
    offender: Address | None
    quoted: bytes
    """The beginning of the datagram."""
    reason: str = ""
    """The ICMP error in words, or this node's own error."""


def want_errors(sock: socket.socket) -> None:
    """Have the kernel queue ICMP errors for take_errors()."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def send_past_errors(
    sock: socket.socket, message: bytes, ancillary: list[tuple[int, int, bytes]], destination: tuple[str, int]
) -> None:
    """Send a datagram. OSError for this one only: an earlier one's error fails a first try, which is repeated."""
    try:
        sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT, destination)
    except OSError:
        sock.sendmsg([message], ancillary, socket.MSG_DONTWAIT, destination)


def take_errors(sock: socket.socket) -> Iterator[Failure]:
    """Yield the errors since the last call, MAX_ERRORS at most."""
    for _ in range(MAX_ERRORS):
        try:
            quoted, ancillary, _, destination = sock.recvmsg(
                _QUOTED_LEN, _ANCILLARY_LEN, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
            )
        except OSError:
            return
        for level, option, body in ancillary:
            if (level, option) in {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}:
                errno, origin, kind, code, _, info, _ = _EXTENDED.unpack_from(body)
                offender = None if origin == _ORIGIN_LOCAL else _address(body[_EXTENDED.size :])
                reason = _REASONS.get((origin, kind, code)) or os.strerror(errno)
                yield Failure(ip_address(destination[0].partition("%")[0]), errno, info, offender, quoted, reason)


def _address(sockaddr: bytes) -> Address | None:
    """The address in a sockaddr_in or sockaddr_in6."""
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == socket.AF_INET:
        return ip_address(sockaddr[4:8])
    return ip_address(sockaddr[8:24]) if family == socket.AF_INET6 else None
