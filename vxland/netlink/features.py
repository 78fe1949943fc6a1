"""The features of a device, as ethtool(8) shows them, and the kind of its headers."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import closing
from typing import Final

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h
_IFREQ: Final = struct.Struct("=16sH22x")
_ETHERNET: Final = 1  # ARPHRD_ETHER, linux/if_arp.h


def features(index: int) -> frozenset[str]:
    """Return the features of an interface that are on, by ethtool's names; none if it is gone."""
    try:
        with closing(IoctlEthtool(socket.if_indextoname(index))) as ethtool:
            return frozenset(name for name, enabled, *_ in ethtool.get_features() if enabled)
    except (EthtoolError, OSError):
        return frozenset()


def is_ethernet(index: int) -> bool:
    """Return whether the frames of an interface have an Ethernet header; False if it is gone."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            request = _IFREQ.pack(os.fsencode(socket.if_indextoname(index)), 0)
            return int(_IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFHWADDR, request))[1]) == _ETHERNET
    except OSError:
        return False
