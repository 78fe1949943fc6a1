"""A reload of the configuration file: what it changes, refuses and logs."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from structlog.testing import capture_logs

from tests.unit.node.kernelless import FILE, KernellessPlane
from vxland.config import load, parse
from vxland.model.source_check import SourceCheck
from vxland.node.lease_follower import LeaseFollower
from vxland.node.registry_factory import make_registry
from vxland.node.reload import Reloader
from vxland.node.state import NodeState

PEERS = [
    {"subnet": f"10.0.{number}.0/24", "vtep": f"192.0.2.{number}", "mac": f"02:00:00:00:00:0{number}"}
    for number in (2, 3)
]


class ReloadedNode:
    """The state, one plane and the reload of a node that has the peers of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()
        settings = load(path)
        self.state = NodeState(settings, make_registry(settings, path.with_name("subnet.env")))
        self.plane = KernellessPlane()
        self.follower = LeaseFollower(self.state)
        self.reloader = Reloader(path, load, self.state, self.follower)

    def write(self, peers: object = PEERS, **sections: dict[str, Any]) -> None:
        """Write the file, with these sections in place of those of FILE."""
        file = {**deepcopy(FILE), "registry": {"peers": peers}, **sections}
        self.path.write_text(yaml.safe_dump(file), encoding="utf-8")

    async def start(self) -> None:
        """Give the plane the first snapshot, as the follower's run() does."""
        self.state.add_plane(self.plane.plane)
        async for event in self.state.registry.watch():
            await self.follower.apply(event)
            self.follower.known.set()
            break

    async def events(self) -> list[str]:
        """Reload, and return the names of the events."""
        with capture_logs() as events:
            await self.reloader.reload()
        return [event["event"] for event in events]


async def test_a_reload_of_the_same_file_changes_no_lease(tmp_path: Path) -> None:
    """Each SIGHUP logged `leases_changed`, although the file was the same; operators looked for a change in vain."""
    node = ReloadedNode(tmp_path / "vxland.yaml")
    await node.start()
    assert await node.events() == ["reloaded"]
    node.write(list(reversed(PEERS)))
    assert await node.events() == ["reloaded"]
    assert len(node.plane.tables) == 1


async def test_new_peers_are_in_the_table_when_a_reload_returns(tmp_path: Path) -> None:
    """A removed peer is out of it too."""
    node = ReloadedNode(tmp_path / "vxland.yaml")
    await node.start()
    node.write(PEERS[:1], security={"source_check": "strict"})
    assert await node.events() == ["leases_changed", "reloaded"]
    assert [table.count for table in node.plane.tables] == [2, 2]
    assert len(node.plane.plane.owners.vteps) == 1
    assert set(node.state.leases) == node.state.settings.peers
    assert node.plane.source_checks == [SourceCheck.STRICT]


async def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    """A setting that needs a restart is named, and the old settings stay in force."""
    node = ReloadedNode(tmp_path / "vxland.yaml")
    await node.start()
    before = node.state.settings
    node.write(PEERS[:1], overlay={**FILE["overlay"], "vni": 7})
    with capture_logs() as events:
        problems = await node.reloader.reload()
    assert [problem.key for problem in problems] == ["overlay.vni"]
    assert [event["event"] for event in events] == ["reload_refused"]
    assert node.state.settings is before
    assert len(node.plane.tables) == 1


async def test_a_node_without_a_file_has_nothing_to_reload(tmp_path: Path) -> None:
    """`vxland flanneld` without a configuration file has its settings from its command line."""
    settings = parse(yaml.safe_dump(FILE))
    state = NodeState(settings, make_registry(settings, tmp_path / "subnet.env"))
    (problem,) = await Reloader(None, load, state, LeaseFollower(state)).reload()
    assert problem.key == "configuration"
