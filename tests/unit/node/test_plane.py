"""A plane that follows the leases, without a kernel."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import ip_address, ip_network
from itertools import islice

from tests.unit.node.kernelless import KernellessPlane
from vxland.lab.bench import scale
from vxland.model.lease import Change, Lease, Mac, Vtep


async def test_a_large_table_is_built_on_a_thread() -> None:
    """Thousands of leases kept the event loop, and every request to the node, waiting."""
    followed = KernellessPlane()
    few, many = (Change(added=frozenset(islice(scale.leases(), *part))) for part in ((10,), (10, 1500)))
    await followed.plane.follow(few)
    await followed.plane.follow(many)
    assert [len(table.vteps) for table in followed.tables] == [10, 1500]
    loop, other = followed.threads
    assert loop == threading.get_ident() != other


async def test_the_last_leases_are_in_force_at_the_end() -> None:
    """A small table is ready sooner than a large one that was asked for before it."""
    followed = KernellessPlane()
    many = frozenset(islice(scale.leases(), 1500))
    follow = followed.plane.follow
    less = Change(removed=frozenset(islice(scale.leases(), 10, 1500)))
    changed = await asyncio.gather(follow(Change(added=many)), follow(less))
    assert [len(table.vteps) for table in followed.tables] == [1500, 10]
    assert list(changed) == [True, True]


async def test_a_change_of_the_other_ip_version_is_none() -> None:
    """The first one counts all the same: the plane knows then that it has no peers."""
    followed = KernellessPlane()
    vtep = Vtep(ip_address("fd00::1"), Mac(2))
    other = Change(added=frozenset({Lease(ip_network("fd00:1::/64"), vtep), Lease(ip_network("10.1.0.0/24"), vtep)}))
    assert await followed.plane.follow(other)
    assert not await followed.plane.follow(other)
    assert [len(table.vteps) for table in followed.tables] == [0]
