"""Run the stored corpus and the seeds through each target, in either gear, without a fuzzer."""

from __future__ import annotations

import pytest

from tests.fuzz import NAMES, target
from tests.fuzz.stored import inputs


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_input_keeps_the_targets_promises(name: str) -> None:
    """And each is there: a target without a corpus has not been fuzzed."""
    chosen, stored = target(name), inputs(name)
    assert stored
    with chosen.checking() as check:
        for raw in [*chosen.SEEDS, *stored]:
            check(raw)
