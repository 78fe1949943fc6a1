"""Route lookups: which way packets to an address leave, as `ip route get` tells it. Policy rules count."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from pyroute2.netlink.rtnl import RTM_GETROUTE

from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.netlink.parse import RouteLookup, parse_route_lookup
from vxland.netlink.rtnl import BATCH, Rtnl

# struct rtmsg with family and dst_len alone, then RTA_DST; packed here, as pyroute2 takes 100 us for each
_QUESTION = struct.Struct("=BB10xHH")
_OIF = struct.Struct("=HHI")
_RTA_DST, _RTA_OIF = 1, 4


async def look_up(rtnl: Rtnl, addresses: Iterable[Address], vrf: int = 0) -> dict[Address, RouteLookup]:
    """The way to each address, from within the VRF of this index or from outside of any (0).

    Those that cannot be reached are left out. KernelRefusedError: the socket failed.
    """
    asked = list(dict.fromkeys(addresses))
    ways: dict[Address, RouteLookup] = {}
    for at in range(0, len(asked), BATCH):
        batch = asked[at : at + BATCH]
        answers = await rtnl.ask([_question(address, vrf) for address in batch], RTM_GETROUTE)
        for address, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, VxlandError):  # no route, or one that refuses
                ways[address] = parse_route_lookup(answer)
    return ways


def _question(address: Address, vrf: int) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    octets, oif = address.packed, _OIF.pack(_OIF.size, _RTA_OIF, vrf) if vrf else b""
    return _QUESTION.pack(family, 8 * len(octets), 4 + len(octets), _RTA_DST) + octets + oif
