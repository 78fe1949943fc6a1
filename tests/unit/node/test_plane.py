"""A plane that follows the leases, without a kernel."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from itertools import islice

import pytest

from tests.unit.node.kernelless import KernellessPlane
from vxland.lab.bench import scale
from vxland.model import slices
from vxland.model.lease import Change, Lease, Mac, Vtep


async def test_a_large_table_is_built_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of leases kept the event loop, and every request to the node, waiting."""
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    followed = KernellessPlane()
    following = asyncio.create_task(followed.plane.follow(Change(added=frozenset(islice(scale.leases(), 1500)))))
    turns = 0
    while not following.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 1500
    assert [len(table.vteps) for table in followed.tables] == [1500]


async def test_the_last_leases_are_in_force_at_the_end() -> None:
    """A small change is ready sooner than a large one that was asked for before it."""
    followed = KernellessPlane()
    many = frozenset(islice(scale.leases(), 1500))
    follow = followed.plane.follow
    less = Change(removed=frozenset(islice(scale.leases(), 10, 1500)))
    changed = await asyncio.gather(follow(Change(added=many)), follow(less))
    assert [table.count for table in followed.tables] == [1500, 10]
    assert len(followed.plane.owners.vteps) == 10
    assert list(changed) == [True, True]


async def test_a_change_of_the_other_ip_version_is_none() -> None:
    """The first one counts all the same: the plane knows then that it has no peers."""
    followed = KernellessPlane()
    vtep = Vtep(ip_address("fd00::1"), Mac(2))
    other = Change(added=frozenset({Lease(ip_network("fd00:1::/64"), vtep), Lease(ip_network("10.1.0.0/24"), vtep)}))
    assert await followed.plane.follow(other)
    assert not await followed.plane.follow(other)
    assert [len(table.vteps) for table in followed.tables] == [0]
