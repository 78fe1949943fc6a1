"""What the kernel drops beside vxland, counted since the start."""

from __future__ import annotations

import pytest

from vxland.kernel import queues
from vxland.kernel.queues import QueueDrops, lost_at_tap, lost_below
from vxland.ops.reasons import QUEUES


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_tells_of_sends(version: int) -> None:
    """Both families have a counter."""
    assert lost_below(version) is not None


def test_no_such_device() -> None:
    """It has lost nothing that anybody knows of."""
    assert lost_at_tap("lo") is not None
    assert lost_at_tap("vxland-none") is None


def test_only_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices, sockets and the node itself were there before, and their counters too."""
    lost = {"tap": 5, "below": 70, "sockets": 900}
    monkeypatch.setattr(queues, "lost_at_tap", lambda _name: lost["tap"])
    monkeypatch.setattr(queues, "lost_below", lambda _version: lost["below"])
    drops = QueueDrops("flannel.1", 4, lambda: lost["sockets"])
    assert not any(any(counts.values()) for counts in drops.by_direction().values())
    lost.update(tap=6, below=72, sockets=903)
    told = drops.by_direction()
    lost["tap"] = 0  # the device is deleted
    assert drops.by_direction() == told
    assert [set(counts) for counts in told.values()] == [set(QUEUES)] * 2
    assert {(way, word): count for way, counts in told.items() for word, count in counts.items() if count} == {
        (QUEUES["tap_queue_full"].direction, "tap_queue_full"): 1,
        ("encap", "underlay_queue_full"): 2,
        ("decap", "socket_queue_full"): 3,
    }
