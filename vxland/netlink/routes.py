"""Route lookups: the interface and source address of packets to an address, as `ip route get` shows them.

Policy rules apply.
"""

from __future__ import annotations

from collections.abc import Iterable

from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.netlink.message import RTM_GETROUTE, RTMSG, attribute, family_of, number
from vxland.netlink.parse import RTA_DST, RTA_OIF, RouteLookup, parse_route_lookup
from vxland.netlink.rtnl import BATCH, Rtnl


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
    packed = address.packed
    body = RTMSG.pack(family_of(address), 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, packed)
    return body + attribute(RTA_OIF, number(vrf)) if vrf else body
