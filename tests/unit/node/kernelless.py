"""A real Plane whose parts that need a kernel only note what they are given."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, Final

from vxland.config import Settings
from vxland.datapath.limits import Limits
from vxland.datapath.table import Table
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Change
from vxland.model.source_check import SourceCheck
from vxland.node.plane import Plane

OWN: Final = ip_address("192.0.2.1")
FILE: Final[dict[str, Any]] = {
    "overlay": {"network": "10.0.0.0/8", "subnet": "10.255.0.0/24"},
    "underlay": {"address": str(OWN)},
    "registry": {"kind": "static", "peers": []},
}


class KernellessPlane:
    """`plane`, the changes of its leases, its tables, and the source checks set."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.tables: list[Table] = []
        self.source_checks: list[SourceCheck] = []
        plane: Any = Plane(Settings.model_validate(FILE), Underlay("e0", 2, OWN, 1500), lambda: None)
        changing = plane._peers.changing

        def noted(change: Change) -> object:
            self.changes.append(change)
            return changing(change)

        async def nothing(_: object) -> None:
            pass

        plane._peers.changing = noted
        plane.workers = SimpleNamespace(
            set_table=self.tables.append,
            limits=Limits({}),
            set_source_check=self.source_checks.append,
        )
        plane.path_mtus = SimpleNamespace(follow=lambda **_: None, below=lambda _: {})
        plane.fast_path = SimpleNamespace(follow=lambda: None, follow_owners=nothing)
        plane.source_filter = SimpleNamespace(follow=nothing)
        plane.mac = None
        plane.reconciler = SimpleNamespace(set_want=lambda _: None, follow=nothing)
        plane.responder = SimpleNamespace(follow=lambda **_: None)
        plane.prober = SimpleNamespace(follow=lambda **_: None, interval_s=plane.settings.probe.interval_s)
        self.plane: Plane = plane
