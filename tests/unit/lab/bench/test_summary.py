"""Medians, ratios within a round, and verdicts."""

from __future__ import annotations

import pytest

from vxland.lab.bench.summary import TARGETS, Spread, Target, Trial, Verdict, judge, ratios, values

TURNS = [
    Trial(1, "veth", "kernel", {"tcp1_gbit_s": 10.0}),
    Trial(1, "veth", "vxland", {"tcp1_gbit_s": 5.0}),
    Trial(2, "veth", "kernel", {"tcp1_gbit_s": 2.0}),  # the machine was busy in this round, for both
    Trial(2, "veth", "vxland", {"tcp1_gbit_s": 1.2}),
    Trial(3, "veth", "kernel", {"tcp1_gbit_s": 10.0}),
    Trial(3, "veth", "vxland", {"tcp1_gbit_s": 9.0}),
    Trial(4, "veth", "vxland", {"tcp1_gbit_s": 9.0}),  # the kernel's trial failed
    Trial(1, "wire", "vxland", {"tcp1_gbit_s": 4.0, "tcp8_retransmits": 499.0}),
    Trial(1, "wire", "fast-path-off", {"tcp1_gbit_s": 5.0}),
]


def test_values_are_of_one_wire() -> None:
    """Other subjects and wires don't count; None if nothing was measured."""
    assert values(TURNS, "veth", "kernel", "tcp1_gbit_s") == Spread(10.0, 2.0, 10.0)
    assert values(TURNS, "veth", "vxland", "tcp1_gbit_s") == Spread(7.0, 1.2, 9.0)
    assert values(TURNS, "veth", "vxland", "rr_p50_us") is None
    assert values(TURNS, "veth", "plain", "tcp1_gbit_s") is None


def test_ratios_are_taken_within_a_round() -> None:
    """0.5, 0.6 and 0.9; the ratio of the medians differs, and round 4 has no kernel to compare with."""
    found = ratios(TURNS, "veth", "tcp1_gbit_s", "vxland", "kernel")
    assert found
    assert (found.median, found.least, found.greatest) == pytest.approx((0.6, 0.5, 0.9))


def test_ratios_are_taken_on_one_wire() -> None:
    """A kernel over veth and a vxland over a wire of small packets were compared once: two networks."""
    assert ratios(TURNS, "wire", "tcp1_gbit_s", "vxland", "kernel") is None


def test_ratio_to_nothing() -> None:
    """A round in which the baseline is 0 has no ratio."""
    trials = [Trial(1, "veth", "kernel", {"lossless_pps": 0.0}), Trial(1, "veth", "vxland", {"lossless_pps": 5.0})]
    assert ratios(trials, "veth", "lossless_pps", "vxland", "kernel") is None


def test_a_small_baseline_counts_as_more() -> None:
    """500 retransmissions are no fault where the kernel has none; 501 are, and twice the kernel's are not."""
    counts = [(0.0, 500.0, 2.0), (0.0, 501.0, 2.004), (100_000.0, 200_000.0, 2.0)]
    for kernel, vxland, expected in counts:
        trials = [Trial(1, "wire", "kernel", {"re": kernel}), Trial(1, "wire", "vxland", {"re": vxland})]
        assert ratios(trials, "wire", "re", "vxland", "kernel", 250) == Spread(expected, expected, expected)


def test_targets_are_judged() -> None:
    """Each target has its ratio, its number, or its number measured once, and a word for it."""
    verdicts = judge(TURNS, {"rss_1000_leases_mib": 63.0})
    words = {(verdict.target.title, verdict.target.wire): verdict.word for verdict in verdicts}
    assert words["TCP x1 / kernel", "veth"] == "missed"
    assert words["TCP x8 / kernel", "veth"] == "not measured"
    assert words["TCP x1 / fast path off", "wire"] == "missed"
    assert words["resident memory with 1,000 leases, MiB", ""] == "floor"
    assert len(words) == len(verdicts) == len(TARGETS)


LESS = Target("less is better", "veth", "rr_p50_us", "kernel", 2.8, 2.0, at_most=True)
MORE = Target("more is better", "veth", "tcp1_gbit_s", "kernel", 0.45, 1.0)


@pytest.mark.parametrize(("reached", "word"), [(2.9, "missed"), (2.8, "floor"), (2.0, "aim"), (1.0, "aim")])
def test_less_is_better_where_the_target_says_so(reached: float, word: str) -> None:
    """Latency, CPU time, losses, memory and lookups have upper bounds."""
    assert Verdict(LESS, reached).word == word


@pytest.mark.parametrize(("reached", "word"), [(0.44, "missed"), (0.45, "floor"), (1.0, "aim")])
def test_more_is_better_elsewhere(reached: float, word: str) -> None:
    """Throughput has lower bounds."""
    assert Verdict(MORE, reached).word == word


def test_an_aim_without_a_floor_is_not_missed() -> None:
    """Its floor is another target's: that of the fast path against the daemon."""
    aim = Target("aim", "wire", "tcp1_gbit_s", "kernel", None, 0.95)
    assert [Verdict(aim, reached).word for reached in (0.9, 0.95)] == ["below the aim", "aim"]
