"""Totals and rates of `vxlandctl stats` and `vxlandctl top`."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from vxland.ctl import counters, top

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "gear": "compiled",
    "uptime_s": 3.0,
    "not_ready": "",
    "troubles": [],
    "registry": {"kind": "static", "leases": 1, "error": ""},
    "planes": [],
}


def test_rates() -> None:
    """Rates are differences per second; reasons without drops in between are left out."""
    drops = {"bum": 1, "no_vtep": 5}
    before = {"at_s": 10.0, "encap": {"frames": 0, "bytes": 0, "drops": drops}}
    before["decap"] = {"frames": 7, "bytes": 70, "drops": drops}
    now = {**before, "at_s": 12.0, "encap": {"frames": 10, "bytes": 1000, "drops": drops | {"no_vtep": 9}}}
    assert counters.rates(before, now) == {
        "seconds": 2.0,
        "encap": {"frames": 5.0, "bytes": 500.0, "drops": {"no_vtep": 2.0}},
        "decap": {"frames": 0.0, "bytes": 0.0, "drops": {}},
    }


def test_the_part_of_the_fast_path() -> None:
    """Totals include what programs carried; `stats` also shows that part, and rates have it by direction."""
    answers: list[dict[str, Any]] = [
        {"at_s": at_s, "fast_path": {}}
        | {way: {"frames": 10 * at_s, "bytes": 1000 * at_s, "drops": {}} for way in ("encap", "decap")}
        for at_s in (10, 12)
    ]
    for answer, frames in zip(answers, (80, 90), strict=True):
        answer["fast_path"] = {
            "encap": {"frames": frames, "bytes": 100 * frames},
            "decap": {"frames": 0, "bytes": 0},
        }
    assert [line.split() for line in counters.stats(answers[1]).splitlines()[1:]] == [
        ["frames", "120", "120"],
        ["bytes", "12000", "12000"],
        ["frames", "by", "the", "fast", "path", "90", "0"],
        ["bytes", "by", "the", "fast", "path", "9000", "0"],
    ]
    rates = counters.rates(*answers)
    assert (rates["encap"]["frames"], rates["encap"]["fast_path"]) == (10.0, {"frames": 5.0, "bytes": 500.0})
    assert rates["decap"]["fast_path"] == {"frames": 0.0, "bytes": 0.0}
    output = StringIO()
    view = top.TopView(STATUS, answers[1], rates, [])
    Console(file=output, width=80).print(top.screen(view))
    lines = [line.split()[2:] for line in output.getvalue().splitlines() if "by programs" in line]
    assert lines == [["5", "4.0k", "90", "9.0k"], ["0", "0", "0", "0"]]
    del answers[0]["fast_path"]  # the daemon was upgraded in between
    assert "fast_path" not in counters.rates(*answers)["encap"]
