"""A plane that follows the leases, without a kernel."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import ip_address
from itertools import islice
from types import SimpleNamespace
from typing import Any

from vxland.config import Settings
from vxland.datapath.table import Table
from vxland.lab.bench import scale
from vxland.model.kernel_state import Underlay
from vxland.node.plane import Plane

SETTINGS = {
    "overlay": {"network": "10.0.0.0/8", "subnet": "10.255.0.0/24"},
    "underlay": {"address": "192.0.2.1"},
    "registry": {"kind": "static", "peers": []},
}


class Followed:
    """A plane whose parts only note what they are given."""

    def __init__(self) -> None:
        plane: Any = Plane(
            Settings.model_validate(SETTINGS), Underlay("e0", 2, ip_address("192.0.2.1"), 1500), lambda: None
        )
        self.tables: list[Table] = []
        self.threads: list[int] = []
        build = plane._build

        def noted(*args: object) -> object:
            self.threads.append(threading.get_ident())
            return build(*args)

        plane._build = noted
        plane.workers = SimpleNamespace(set_table=self.tables.append, set_limits=lambda _: None, table=Table((), 8472))
        plane.ways = SimpleNamespace(set_vteps=lambda _: None, ways={})
        plane.source_filter = SimpleNamespace(admit=lambda _: None)
        plane.mac = None
        plane.reconciler = SimpleNamespace(set_want=lambda _: None)
        plane.prober = SimpleNamespace(follow=lambda _: None)
        self.follow = plane.follow


async def test_a_large_table_is_built_beside_the_loop() -> None:
    """Thousands of leases kept the event loop, and whoever asked the node anything, waiting."""
    followed = Followed()
    few, many = list(islice(scale.leases(), 10)), list(islice(scale.leases(), 1500))
    await followed.follow(few, {})
    await followed.follow(many, {})
    assert [len(table.vteps) for table in followed.tables] == [10, 1500]
    loop, other = followed.threads
    assert loop == threading.get_ident() != other


async def test_what_follows_later_is_in_force_at_the_end() -> None:
    """A small table is ready sooner than a large one that was asked for before it; what is in force changes nothing."""
    followed = Followed()
    few, many = list(islice(scale.leases(), 10)), list(islice(scale.leases(), 1500))
    await asyncio.gather(followed.follow(many, {}), followed.follow(few, {}), followed.follow(few, {}))
    assert [len(table.vteps) for table in followed.tables] == [1500, 10]
