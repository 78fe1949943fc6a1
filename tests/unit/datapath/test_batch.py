"""The batch of a wake-up: how much it holds."""

from __future__ import annotations

from vxland.datapath.batch import Batch


def test_a_batch_holds_64_datagrams_and_can_be_used_again() -> None:
    """As many as a wake-up reads at most; UDP_SEGMENT would send twice as many in one call."""
    batch = Batch()
    for _ in range(2):
        for i in range(64):
            assert batch.count == i
            batch.add(i * 1600, 1500, i, 3, 0)
        assert batch.count == 64
        batch.clear()
        assert batch.count == 0
