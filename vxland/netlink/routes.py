"""Route lookups: the interface and source address of packets to an address, as `ip route get` shows them.

Policy rules apply.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pyroute2.netlink.rtnl import RTM_GETROUTE

from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.netlink.message import family_of
from vxland.netlink.parse import RouteLookup, parse_route_lookup
from vxland.netlink.rtnl import BATCH, Rtnl

# struct rtmsg with family and dst_len alone, then RTA_DST; packed here, as pyroute2 needs 100 us for each
_QUERY = struct.Struct("=BB10xHH")
_OIF = struct.Struct("=HHI")
_RTA_DST, _RTA_OIF = 1, 4


async def look_up(rtnl: Rtnl, addresses: Iterable[Address], vrf: int = 0) -> dict[Address, RouteLookup]:
    """Return the route to each address, in the VRF of this index or outside of any (0).

    Unreachable addresses are left out. KernelRefusedError: the socket failed.
    """
    targets = list(dict.fromkeys(addresses))
    found: dict[Address, RouteLookup] = {}
    for at in range(0, len(targets), BATCH):
        batch = targets[at : at + BATCH]
        answers = await rtnl.query([_query(address, vrf) for address in batch], RTM_GETROUTE)
        for address, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, VxlandError):  # no route, or one that refuses
                found[address] = parse_route_lookup(answer)
    return found


def _query(address: Address, vrf: int) -> bytes:
    packed, oif = address.packed, _OIF.pack(_OIF.size, _RTA_OIF, vrf) if vrf else b""
    return _QUERY.pack(family_of(address), 8 * len(packed), 4 + len(packed), _RTA_DST) + packed + oif
