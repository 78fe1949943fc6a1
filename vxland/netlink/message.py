"""Netlink messages: header, attributes, requests, and the constants of linux/rtnetlink.h used here. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from vxland.model.lease import Address

Message: TypeAlias = Any  # pyroute2.netlink.nlmsg: it has no types

AF_INET: Final = 2  # linux/socket.h
AF_INET6: Final = 10
AF_BRIDGE: Final = 7

RTM_NEWLINK, RTM_DELLINK = 16, 17  # linux/rtnetlink.h
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

HDR: Final = struct.Struct("=IHHII")
"""struct nlmsghdr of linux/netlink.h: length, type, flags, sequence, portid."""

_ATTR: Final = struct.Struct("=HH")  # struct nlattr: length, type
_ATTR_TYPE_MASK: Final = 0x3FFF  # the two highest bits say nested and big-endian


@dataclass(frozen=True, slots=True)
class Request:
    """One change: its name in an error, the message, its RTM_ type, and NLM_F_ flags beyond REQUEST and ACK."""

    name: str
    message: Message
    kind: int
    flags: int = 0


def family_of(address: Address) -> int:
    """Return the address family, AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def messages(chunk: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield (type, flags, sequence, portid, message with its header) of each netlink message in a received chunk."""
    at = 0
    while at + HDR.size <= len(chunk):
        length, kind, flags, sequence, portid = HDR.unpack_from(chunk, at)
        if length < HDR.size:  # no kernel sends one; the loop would not end
            return
        yield kind, flags, sequence, portid, chunk[at : at + length]
        at += (length + 3) & ~3


def attributes(message: bytes, at: int) -> dict[int, bytes]:
    """Return the attributes from offset `at` to the end of a message, by type. Kernel: nla_parse."""
    found = {}
    end = len(message)
    while at + _ATTR.size <= end:
        length, kind = _ATTR.unpack_from(message, at)
        if length < _ATTR.size or at + length > end:
            break
        found[kind & _ATTR_TYPE_MASK] = message[at + _ATTR.size : at + length]
        at += (length + 3) & ~3
    return found
