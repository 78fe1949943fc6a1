"""What is odd about the leases of a cluster: claims that cannot all be true. Overlaps of subnets are view.py's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from vxland.model.lease import Lease, Subnet
from vxland.model.log_quota import LINES, LogQuota

SETTLE_S: Final = 5.0
"""After a change, before the leases are looked through: that takes 0.1 s with thousands."""

_NAMED = 3  # subnets that a sentence names

log = structlog.get_logger()


async def tell_oddities(
    unsettled: asyncio.Event, leases: Callable[[], Iterable[Lease]], sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Log what is odd about the leases whenever they changed, each oddity once. Never returns."""
    told: dict[str, str] = {}
    quota = LogQuota("odd leases", LINES + 1)
    while True:
        await unsettled.wait()
        await sleep(SETTLE_S)
        unsettled.clear()
        found = await asyncio.to_thread(oddities, leases())
        news = [reason for what, reason in found.items() if told.get(what) != reason]
        for reason in news[:LINES]:
            if quota.allows():
                log.warning("lease_conflict", reason=reason)
        if len(news) > LINES and quota.allows():
            log.warning("more_lease_conflicts", count=len(news) - LINES)
        told = found


def oddities(leases: Iterable[Lease]) -> dict[str, str]:
    """A sentence for each VTEP address and MAC that several nodes seem to have, by what is shared.

    A node has one subnet of each IP version, so only leases of one version are compared.
    """
    known = set(leases)
    found: dict[str, str] = {}
    for version in (4, 6):
        mine = sorted((lease for lease in known if lease.subnet.version == version), key=_order)
        _shared(found, "VTEP address", [(str(lease.vtep.address), lease.subnet) for lease in mine])
        _shared(found, "MAC", [(str(lease.vtep.mac), lease.subnet) for lease in mine])
    return found


def _shared(found: dict[str, str], what: str, claims: list[tuple[str, Subnet]]) -> None:
    subnets_of: dict[str, list[Subnet]] = {}
    for claimed, subnet in claims:
        subnets_of.setdefault(claimed, []).append(subnet)
    for claimed, subnets in subnets_of.items():
        if len(set(subnets)) > 1:
            more = f" and {len(subnets) - _NAMED} more" if len(subnets) > _NAMED else ""
            named = ", ".join(map(str, subnets[:_NAMED]))
            found[claimed] = f"the {what} {claimed} is that of the nodes of {named}{more}: every node needs its own"


def _order(lease: Lease) -> tuple[int, int, str]:
    return int(lease.subnet.network_address), lease.subnet.prefixlen, str(lease.vtep)
