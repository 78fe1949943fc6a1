"""The reasons and their counters."""

from __future__ import annotations

import re
from importlib.resources import files

from vxland.datapath.verdict import COUNTED, DROPS_LEN, FORWARD, Counters, Drop

WORDS = [
    "too_short",
    "truncated",
    "i_flag_clear",
    "wrong_vni",
    "next_protocol",
    "unknown_vtep",
    "inner_malformed",
    "own_mac",
    "inner_source_foreign",
    "ecn_ce",
    "bum",
    "no_vtep",
    "send_failed",
    "send_buffer_full",
    "tap_write_failed",
    "overload",
    "too_big",
]


def test_every_reason_has_a_word_of_its_own() -> None:
    """Metric labels, log fields and docs/drops.md spell them so; a renamed reason breaks somebody's dashboard."""
    assert sorted(drop.label for drop in Drop) == sorted(WORDS)
    assert len({drop.value for drop in Drop}) == len(WORDS)


def test_no_reason_is_taken_for_forward() -> None:
    """FORWARD is 0, ANSWERED -1; reasons are the small positive numbers that index the counters."""
    assert FORWARD == 0
    assert sorted(Drop) == list(range(1, DROPS_LEN))


def test_counters_start_at_zero_and_name_every_reason() -> None:
    """A reason that has not occurred is shown as 0."""
    counters = Counters()
    assert counters.by_name() == dict.fromkeys((each.name for each in COUNTED), 0)
    assert counters.by_reason() == dict.fromkeys(WORDS, 0)


def test_every_counter_has_a_type() -> None:
    """verdict.pxd declares exactly the counters of the list; Python alone would accept a name that C does not have."""
    declared = re.search(r"cdef readonly uint64_t (\w.*)", (files("vxland") / "datapath" / "verdict.pxd").read_text())
    assert declared is not None
    assert sorted(declared[1].split(", ")) == sorted(each.name for each in COUNTED)


def test_names_in_use_stay() -> None:
    """Dashboards and scripts read them: metrics by name, and `vxlandctl stats --json` by key."""
    assert {each.name: each.metric.removeprefix("vxland_") for each in COUNTED} == {
        name: name for name in ("frames", "bytes", "answers", "wakeups", "reads", "batches", "superframes")
    } | {"fragmented": "outer_fragmented"}


def test_a_drop_counts_for_its_reason_alone() -> None:
    """Beyond 32 bits too: a node may run for years."""
    counters = Counters()
    counters.drops[Drop.NO_VTEP] += 1
    counters.drops[Drop.BUM] = (1 << 40) + 1
    assert counters.by_reason() == dict.fromkeys(WORDS, 0) | {"no_vtep": 1, "bum": (1 << 40) + 1}
