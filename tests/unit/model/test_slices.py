"""Work in slices: other tasks run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from vxland.model import slices
from vxland.model.slices import in_slices
from vxland.model.steps import at_once


def count(most: int) -> Generator[None, None, int]:
    """Count to `most`, with a rest after each number."""
    for _ in range(most):
        yield
    return most


async def test_other_tasks_run_between_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 20,000 leases held the event loop for 0.1 s."""
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    other = asyncio.create_task(in_slices(count(3)))
    assert await in_slices(count(10)) == 10
    assert other.done()


async def test_short_work_does_not_rest() -> None:
    """A change of one lease passes at once."""
    other = asyncio.create_task(in_slices(count(1)))
    assert await in_slices(count(1)) == at_once(count(1)) == 1
    assert not other.done()
    await other
