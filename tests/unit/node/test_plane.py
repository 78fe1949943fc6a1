"""A plane that follows the leases, without a kernel."""

from __future__ import annotations

import asyncio
import threading
from itertools import islice

from tests.unit.node.kernelless import KernellessPlane
from vxland.lab.bench import scale


async def test_a_large_table_is_built_on_a_thread() -> None:
    """Thousands of leases kept the event loop, and every request to the node, waiting."""
    followed = KernellessPlane()
    few, many = list(islice(scale.leases(), 10)), list(islice(scale.leases(), 1500))
    await followed.plane.follow(few, {})
    await followed.plane.follow(many, {})
    assert [len(table.vteps) for table in followed.tables] == [10, 1500]
    loop, other = followed.threads
    assert loop == threading.get_ident() != other


async def test_the_last_leases_are_in_force_at_the_end() -> None:
    """A small table is ready sooner than a large one that was asked for before it; the same leases change nothing."""
    followed = KernellessPlane()
    few, many = list(islice(scale.leases(), 10)), list(islice(scale.leases(), 1500))
    follow = followed.plane.follow
    changed = await asyncio.gather(follow(many, {}), follow(few, {}), follow(few, {}))
    assert [len(table.vteps) for table in followed.tables] == [1500, 10]
    assert list(changed) == [True, True, False]
