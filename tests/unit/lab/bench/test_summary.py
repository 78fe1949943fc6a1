"""Medians, ratios within a round, and verdicts."""

from __future__ import annotations

import pytest

from vxland.lab.bench.summary import TARGETS, Trial, Verdict, judge, ratio, value

TURNS = [
    Trial(1, 1500, "kernel", {"tcp1_gbit_s": 10.0}),
    Trial(1, 1500, "vxland", {"tcp1_gbit_s": 5.0}),
    Trial(2, 1500, "kernel", {"tcp1_gbit_s": 2.0}),  # the machine was busy in this round, for both
    Trial(2, 1500, "vxland", {"tcp1_gbit_s": 1.2}),
    Trial(3, 1500, "kernel", {"tcp1_gbit_s": 10.0}),
    Trial(3, 1500, "vxland", {"tcp1_gbit_s": 9.0}),
    Trial(4, 1500, "vxland", {"tcp1_gbit_s": 9.0}),  # the kernel's trial failed
    Trial(1, 9000, "vxland", {"tcp1_gbit_s": 99.0}),
]


def test_value_is_the_median_of_its_mtu() -> None:
    """Other subjects and MTUs don't count; None if nothing was measured."""
    assert value(TURNS, 1500, "kernel", "tcp1_gbit_s") == 10.0
    assert value(TURNS, 1500, "vxland", "tcp1_gbit_s") == 7.0
    assert value(TURNS, 1500, "vxland", "rr_p50_us") is None
    assert value(TURNS, 1500, "plain", "tcp1_gbit_s") is None


def test_ratio_is_taken_within_a_round() -> None:
    """0.5, 0.6 and 0.9; the ratio of the medians differs, and round 4 has no kernel to compare with."""
    assert ratio(TURNS, 1500, "tcp1_gbit_s", "vxland", "kernel") == pytest.approx(0.6)
    assert ratio(TURNS, 9000, "tcp1_gbit_s", "vxland", "kernel") is None


def test_ratio_to_nothing() -> None:
    """A round in which the baseline is 0 has no ratio."""
    trials = [Trial(1, 1500, "kernel", {"lossless_pps": 0.0}), Trial(1, 1500, "vxland", {"lossless_pps": 5.0})]
    assert ratio(trials, 1500, "lossless_pps", "vxland", "kernel") is None


def test_targets_are_judged() -> None:
    """Each target has its ratio, or its number measured once, and a word for it."""
    verdicts = {verdict.target.title: verdict for verdict in judge(TURNS, 1500, {"rss_1000_leases_mib": 63.0})}
    assert verdicts["TCP x1 / kernel"].word == "floor"
    assert verdicts["TCP x8 / kernel"].word == "not measured"
    assert verdicts["resident memory with 1,000 leases, MiB"].word == "floor"
    assert len(verdicts) == len(TARGETS)


@pytest.mark.parametrize(("reached", "word"), [(2.9, "missed"), (2.8, "floor"), (2.0, "aim"), (1.0, "aim")])
def test_less_is_better_where_the_target_says_so(reached: float, word: str) -> None:
    """Latency, CPU time, memory and lookups have upper bounds."""
    target = next(target for target in TARGETS if target.measure == "rr_p50_us")
    assert Verdict(target, reached).word == word


@pytest.mark.parametrize(("reached", "word"), [(0.44, "missed"), (0.45, "floor"), (1.0, "aim")])
def test_more_is_better_elsewhere(reached: float, word: str) -> None:
    """Throughput has lower bounds."""
    assert Verdict(TARGETS[0], reached).word == word
