"""The state of a node: who may change it, and what it keeps when its planes are closed."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vxland.config import parse
from vxland.forwarding.counts import Direction
from vxland.lab.bench import scale
from vxland.model.lease import Delta, Snapshot
from vxland.node.plane import Plane
from vxland.node.registry_factory import make_registry
from vxland.node.state import NodeState
from vxland.probes.reach import Probing

FILE = "overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}"


class CountingPlane:
    """The parts of a plane that a state counts; a test sets them."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.workers = SimpleNamespace(new_errnos=self._new_errnos, directions=self._directions)
        self.fast_path = SimpleNamespace(directions=self._carried)
        self.forwarding = SimpleNamespace(problems=())
        self.prober = SimpleNamespace(probing=Probing)
        self.not_ready = ""
        self.queues = SimpleNamespace(by_direction=lambda: {"encap": Counter(), "decap": Counter(socket_queue_full=5)})

    def _new_errnos(self) -> dict[str, int]:
        errnos, self.refused = self.refused, {}
        return errnos

    def _carried(self) -> dict[str, Direction]:
        return {"encap": Direction({"frames": 100}, {}), "decap": Direction({"frames": 200}, {})}

    def _directions(self) -> dict[str, Direction]:
        return {"encap": Direction({"frames": 7}, {"no_vtep": 1}), "decap": Direction({"frames": 9}, {})}


def state_with(tmp_path: Path, *planes: CountingPlane) -> NodeState:
    """Return the state of a node with these planes."""
    settings = parse(FILE)
    state = NodeState(settings, make_registry(settings, tmp_path / "subnet.env"))
    for plane in planes:
        state.add_plane(cast("Plane", plane))
    return state


def test_the_errno_of_the_plane_whose_frames_were_dropped(tmp_path: Path) -> None:
    """`frames_dropped` of a dual-stack node named an old error of its IPv4 plane for refused sends over IPv6."""
    v4, v6 = CountingPlane(), CountingPlane()
    state = state_with(tmp_path, v4, v6)
    assert state.last_errnos() == {"encap": 0, "decap": 0}
    v4.refused = {"encap": errno.EPERM}
    assert state.last_errnos() == {"encap": errno.EPERM, "decap": 0}
    v6.refused = {"encap": errno.ENETUNREACH}
    assert state.last_errnos() == {"encap": errno.ENETUNREACH, "decap": 0}
    assert state.last_errnos() == {"encap": errno.ENETUNREACH, "decap": 0}


def test_closed_planes_stay_counted(tmp_path: Path) -> None:
    """Counters went back to 0 when the node gave way to flanneld and started again."""
    state = state_with(tmp_path, CountingPlane())
    before = state.drops()
    assert before == {"encap": {"no_vtep": 1}, "decap": {"socket_queue_full": 5}}
    state.retire()
    assert state.planes == ()
    assert state.drops() == before
    state.add_plane(cast("Plane", CountingPlane()))
    state.retire()
    assert state.drops() == {"encap": {"no_vtep": 2}, "decap": {"socket_queue_full": 10}}


def test_closed_planes_stay_counted_with_what_programs_carried(tmp_path: Path) -> None:
    """The part of the programs is in the totals, and neither goes back when a plane closes."""
    state = state_with(tmp_path, CountingPlane())

    def frames() -> list[int]:
        sample = state.sample()
        return [found[way].counts["frames"] for found in (sample.directions, sample.carried) for way in found]

    assert frames() == [107, 209, 100, 200]
    state.retire()
    assert frames() == [107, 209, 100, 200]


@pytest.mark.parametrize("name", ["settings", "registry", "planes", "leases", "firewall"])
def test_only_methods_change_it(tmp_path: Path, name: str) -> None:
    """The answering layer once wrote into the state of the daemon."""
    state: Any = state_with(tmp_path)
    with pytest.raises(AttributeError):
        setattr(state, name, None)


async def test_the_age_of_a_lease_is_that_of_its_contents(tmp_path: Path) -> None:
    """A lease that stays keeps its time; one that changes gets a new one."""
    state, (first, second, third, other) = state_with(tmp_path), islice(scale.leases(), 4)
    await state.follow(Snapshot(frozenset({first, second, third})))
    before = state.snapshot().since
    changed = replace(second, vtep=other.vtep)
    await state.follow(Delta(frozenset({first, changed}), frozenset({third.subnet})))
    now = state.snapshot()
    assert set(now.leases) == {first, changed}
    assert now.since.keys() == {first.subnet, second.subnet}
    assert now.since[first.subnet] == before[first.subnet]
    assert now.since[second.subnet] > before[second.subnet]
