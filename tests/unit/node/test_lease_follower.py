"""Leases from the registry on their way to the planes, with the sources of the settings."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import islice
from pathlib import Path

import yaml
from structlog.testing import capture_logs

from tests.unit.node.kernelless import FILE, KernellessPlane
from vxland.config import parse
from vxland.lab.bench import scale
from vxland.model.lease import Address, Change, Delta, Snapshot, Subnet
from vxland.node.lease_follower import LeaseFollower
from vxland.node.registry_factory import make_registry
from vxland.node.state import NodeState

LEASES = list(islice(scale.leases(), 5))


class FollowingNode:
    """The state and one plane of a node that follows LEASES."""

    def __init__(self, path: Path) -> None:
        settings = parse(yaml.safe_dump(FILE))
        self.state = NodeState(settings, make_registry(settings, path / "subnet.env"))
        self.plane = KernellessPlane()
        self.state.add_plane(self.plane.plane)
        self.follower = LeaseFollower(self.state)

    def set_sources(self, sources: dict[Address, tuple[Subnet, ...]]) -> None:
        """Reload `security.sources`, as far as the settings."""
        settings = self.state.settings
        security = settings.security.model_copy(update={"sources": tuple(sources.items())})
        self.state.apply_settings(settings.model_copy(update={"security": security}))

    async def changes(self, event: Snapshot | Delta) -> list[Change]:
        """Apply an event, and return the changes that it makes in the plane."""
        known = len(self.plane.changes)
        await self.follower.apply(event)
        return self.plane.changes[known:]


async def test_a_plane_gets_what_differs(tmp_path: Path) -> None:
    """Each change of a lease went through all leases of the cluster."""
    node = FollowingNode(tmp_path)
    assert await node.changes(Snapshot(frozenset(LEASES[:3]))) == [Change(added=frozenset(LEASES[:3]))]
    event = Delta(frozenset(LEASES[2:4]), frozenset({LEASES[0].subnet}))
    assert await node.changes(event) == [Change(frozenset(LEASES[:1]), frozenset(LEASES[3:4]))]
    assert await node.changes(event) == []
    assert set(node.state.leases) == set(LEASES[1:4])


async def test_the_first_snapshot_counts_even_if_it_is_empty(tmp_path: Path) -> None:
    """A node without peers became ready only when it had one."""
    node = FollowingNode(tmp_path)
    with capture_logs() as events:
        assert await node.changes(Snapshot(frozenset())) == [Change()]
    assert [event["event"] for event in events] == ["leases_changed"]


async def test_new_sources_are_a_change_of_the_leases_concerned(tmp_path: Path) -> None:
    """A prefix that the settings add to a VTEP, and take away again, touches the leases of that VTEP alone."""
    node = FollowingNode(tmp_path)
    await node.changes(Snapshot(frozenset(LEASES)))
    plain, nat = LEASES[2], (ip_network("198.51.100.0/24"),)
    behind_nat = replace(plain, sources=nat)
    node.set_sources({plain.vtep.address: nat, ip_address("192.0.2.99"): nat})
    assert await node.changes(Delta()) == [Change(frozenset({plain}), frozenset({behind_nat}))]
    assert await node.changes(Delta(removed=frozenset({plain.subnet}))) == [Change(frozenset({behind_nat}))]
    assert await node.changes(Delta(frozenset({plain}))) == [Change(added=frozenset({behind_nat}))]
    node.set_sources({})
    assert await node.changes(Delta()) == [Change(frozenset({behind_nat}), frozenset({plain}))]
    assert set(node.state.leases) == set(LEASES)
