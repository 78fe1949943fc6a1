"""The kernel's path MTU to a VTEP, from interface, route, cached ICMP errors and IPsec.

It is read from a connected UDP socket (IP_MTU, ip(7)), which looks up routes like a sending socket. So xfrm policies
count, unlike in `ip route get`. The kernel caches the MTU of ICMP errors for net.ipv4.route.mtu_expires, 600 s.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from vxland.config import Settings
from vxland.kernel.sockets import bound, ignore_path_mtu
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address
from vxland.model.text import link_name
from vxland.netlink.learned_mtus import LearnedMtus

_IP_MTU = 14  # linux/in.h, not in the socket module
_IPV6_MTU = 24  # linux/in6.h
_SIOCGIFMTU = 0x8921  # linux/sockios.h
_IFREQ = struct.Struct("=16si20x")


def icmp_counts(settings: Settings, underlay: Underlay) -> bool:
    """Return whether a router can truly say that a datagram of ours is too big: not where it may fragment it."""
    return underlay.address.version == 6 or settings.outer.df != "unset"


class UnseenPaths:
    """Paths of an underlay in another network namespace: this one has neither its interface nor its routes."""

    def close(self) -> None:
        """Do nothing."""

    def interface(self, index: int) -> None:
        """Return None: the interface is not here."""

    def mtu_to(self, vtep: Address) -> None:
        """Return None: there is no route from here."""

    def learned(self, vtep: Address) -> None:
        """Return None: the kernel keeps ICMP errors where the sockets are."""


class Paths:
    """Paths from `address`, in a VRF or none, to UDP port `port`. StartError if the address is not ours. Close it."""

    def __init__(self, address: Address, port: int, vrf: int = 0) -> None:
        self._socket = bound(address, 0, vrf=vrf)
        ignore_path_mtu(self._socket)  # it sends nothing; IP_MTU includes the learned MTU anyway
        self._learned = LearnedMtus(address, vrf)
        self._port = port
        self._option = (socket.IPPROTO_IP, _IP_MTU) if address.version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._learned.close()

    def interface(self, index: int) -> tuple[str, int] | None:
        """Return printable name and MTU in bytes of an interface now; None if it is gone."""
        try:
            name = socket.if_indextoname(index)
            answer = fcntl.ioctl(self._socket, _SIOCGIFMTU, _IFREQ.pack(os.fsencode(name), 0))
        except OSError:  # or renamed between the two: the next period reads it again
            return None
        return link_name(name), int(_IFREQ.unpack(answer)[1])

    def mtu_to(self, vtep: Address) -> int | None:
        """Return the MTU in bytes of the path to a VTEP; None without a route."""
        try:
            self._socket.connect((str(vtep), self._port))
            return self._socket.getsockopt(*self._option)
        except OSError:
            return None

    def learned(self, vtep: Address) -> tuple[int, int | None] | None:
        """Return the MTU that ICMP gave for that path and the route's own, if any; None without an ICMP error."""
        return self._learned.to(vtep)
