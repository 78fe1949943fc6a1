"""Path MTUs that the kernel has learned from ICMP, apart from those that routes are configured with.

The socket option IP_MTU returns both in one number. A route lookup (RTM_GETROUTE, rtnetlink(7)) shows a cached
exception of the path, and with RTM_F_FIB_MATCH the route itself (Linux 4.13, IPv6 5.0). The kernel answers within the
send, so nothing here waits.
"""

from __future__ import annotations

import socket
import struct

from vxland.model.lease import Address
from vxland.netlink.message import (
    HDR,
    NLM_F_REQUEST,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTMSG,
    attribute,
    attributes,
    family_of,
    number,
)

_CLONED, _FIB_MATCH = 0x200, 0x2000  # linux/rtnetlink.h: RTM_F_*
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_METRICS, _RTA_CACHEINFO = 1, 2, 4, 8, 12
_RTAX_MTU = 2
_CACHEINFO = struct.Struct("=IIi")  # clntref, lastuse, expires in ticks of USER_HZ; more follows
_ANSWER_LEN = 1 << 13


class LearnedMtus:
    """A netlink socket that queries paths from `source`, in the VRF of this index or none (0). Close it."""

    def __init__(self, source: Address, vrf: int = 0) -> None:
        self._source = source
        self._vrf = attribute(_RTA_OIF, number(vrf)) if vrf else b""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def to(self, vtep: Address) -> tuple[int, int | None] | None:
        """Return the path MTU learned for a VTEP in bytes, and the MTU of its route (None: the route sets none).

        None if none was learned, or the kernel does not report it.
        """
        cached = self._query(vtep, 0)
        if cached is None or not _is_exception(vtep, *cached) or (mtu := _mtu(cached[1])) is None:
            return None
        route = self._query(vtep, _FIB_MATCH)
        return mtu, None if route is None else _mtu(route[1])

    def _query(self, vtep: Address, flags: int) -> tuple[int, dict[int, bytes]] | None:
        """Return the flags and attributes of the kernel's answer; None for an error."""
        self._sequence += 1
        bits = vtep.max_prefixlen
        message = RTMSG.pack(family_of(vtep), bits, bits, 0, 0, 0, 0, 0, flags)
        for kind, address in ((_RTA_DST, vtep), (_RTA_SRC, self._source)):
            message += attribute(kind, address.packed)
        message += self._vrf
        try:
            self._socket.send(
                HDR.pack(HDR.size + len(message), RTM_GETROUTE, NLM_F_REQUEST, self._sequence, 0) + message
            )
            while True:
                answer = self._socket.recv(_ANSWER_LEN)
                _, kind, _, sequence, _ = HDR.unpack_from(answer)
                if sequence == self._sequence:
                    break
        except OSError:
            return None
        if kind != RTM_NEWROUTE:
            return None
        return RTMSG.unpack_from(answer, HDR.size)[8], attributes(answer, HDR.size + RTMSG.size)


def _is_exception(vtep: Address, flags: int, found: dict[int, bytes]) -> bool:
    """Whether an answer shows a cached exception. IPv4: one that expires (rt_fill_info); IPv6: a clone."""
    if vtep.version == 6:
        return bool(flags & _CLONED)
    info = found.get(_RTA_CACHEINFO, b"")
    return len(info) >= _CACHEINFO.size and bool(_CACHEINFO.unpack_from(info)[2])


def _mtu(found: dict[int, bytes]) -> int | None:
    """Return the metric `mtu` of a route."""
    value = attributes(found.get(_RTA_METRICS, b""), 0).get(_RTAX_MTU)
    return None if value is None else int(struct.unpack_from("=I", value)[0])
