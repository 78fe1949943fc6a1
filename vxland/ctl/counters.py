"""Counters of the data path as text: totals, and rates between two answers of `stats`."""

from __future__ import annotations

from typing import Any

from vxland.ctl.show import DIRECTIONS, table

Answer = Any  # as JSON has it


def stats(answer: Answer) -> str:
    """`vxlandctl stats`."""
    rows = [[what, *(str(answer[direction][what]) for direction in DIRECTIONS)] for what in ("frames", "bytes")]
    if by_programs := answer.get("fast_path"):  # an older daemon has none
        rows += [
            [f"{what} by the fast path", *(str(by_programs[direction][what]) for direction in DIRECTIONS)]
            for what in ("frames", "bytes")
        ]
    dropped = [
        reason
        for reason in answer["encap"]["drops"]
        if any(answer[direction]["drops"][reason] for direction in DIRECTIONS)
    ]
    rows += [
        [f"dropped: {reason}", *(str(answer[direction]["drops"][reason]) for direction in DIRECTIONS)]
        for reason in dropped
    ]
    return table(["SINCE START", "ENCAP#", "DECAP#"], rows)


RATES_HEAD = f"{'ENCAP/s':>12}{'Mbit/s':>10}{'DROPS/s':>10}{'DECAP/s':>12}{'Mbit/s':>10}{'DROPS/s':>10}"


def rates(before: Answer, now: Answer) -> Answer:
    """Return rates per second between two answers of `stats`; of drops only reasons that had any."""
    seconds = now["at_s"] - before["at_s"]
    found: Answer = {"seconds": seconds}
    for direction in DIRECTIONS:
        old, new = before[direction], now[direction]
        drops = {why: (count - old["drops"].get(why, 0)) / seconds for why, count in new["drops"].items()}
        found[direction] = {what: (new[what] - old[what]) / seconds for what in ("frames", "bytes")}
        found[direction]["drops"] = {why: rate for why, rate in drops.items() if rate}
        if "fast_path" in before and "fast_path" in now:  # an older daemon has none
            was, part = before["fast_path"][direction], now["fast_path"][direction]
            found[direction]["fast_path"] = {what: (part[what] - was[what]) / seconds for what in ("frames", "bytes")}
    return found


def rates_line(answer: Answer) -> str:
    """Return one line of `vxlandctl stats --watch`."""
    line = ""
    for direction in DIRECTIONS:
        rate = answer[direction]
        line += f"{rate['frames']:>12.0f}{rate['bytes'] * 8e-6:>10.1f}{sum(rate['drops'].values()):>10.0f}"
    drops = ((direction, *drop) for direction in DIRECTIONS for drop in answer[direction]["drops"].items())
    return line + "".join(f"  {direction} {why} {rate:.0f}" for direction, why, rate in drops)
