"""The demo from beginning to end: build, start, look, judge, and always remove."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from vxland.demo import evidence, shell, traffic, vtep
from vxland.demo.checks import judge, removed
from vxland.demo.evidence import Evidence
from vxland.demo.lab import Lab, remains, sweep
from vxland.demo.report import Report, as_json
from vxland.demo.signals import deafen, stoppable
from vxland.demo.topology import NODES, POD_A, POD_C, Kind

T = TypeVar("T")

LOG_WIDTH = 110


def play(kinds: tuple[Kind, Kind], *, json_wanted: bool, keep: bool) -> int:
    """Play the walk-through with these VTEPs; 0 when every check passed, else 1. StartError when it cannot begin."""
    shell.require(kinds)
    notes = Console(stderr=True)
    report = Report(_console(json_wanted), Lab())
    lab = report.lab
    found: Evidence | None = None
    script: Path | None = None
    codes: dict[str, int] = {}
    with stoppable():
        try:
            found = _tell(kinds, report, notes)
            script = lab.keep() if keep else None
        except KeyboardInterrupt:
            pass  # said below, when everything is removed
        finally:
            with suppress(KeyboardInterrupt):
                deafen()
            if script is None:
                codes = lab.remove()
    if found is None:
        notes.print("interrupted; all that the demo had made is removed again")
        return 1
    verdicts = judge(found)
    if script is None:
        titles = {node.namespace: node.title for node in NODES}
        verdicts += removed({titles[name]: code for name, code in codes.items()}, remains(lab.pid))
    report.checks(verdicts)
    if script is not None:
        report.kept(script)
    if json_wanted:
        print(json.dumps(as_json(found, verdicts), indent=2))
    return 0 if all(check.passed for check in verdicts) else 1


def _tell(kinds: tuple[Kind, Kind], report: Report, notes: Console) -> Evidence:
    """Build the lab and walk through it, printing each step when it is done."""
    lab = report.lab

    def step(doing: str, job: Callable[[], T]) -> T:
        if not notes.is_terminal:
            return job()
        with notes.status(doing):
            return job()

    for pid in step("looking for leftovers", sweep):
        notes.print(f"removed what an earlier demo, process {pid}, had left behind")
    report.topology(kinds)
    step("building two nodes and four pods", lab.build)
    step("starting the VTEPs", lambda: _start(lab, kinds))
    devices = evidence.look_at_devices(lab)
    report.devices(devices)
    before = evidence.count(lab)
    same = step(f"{POD_A.title} pings its neighbour", lambda: evidence.ping_same_node(lab))
    report.same_node(same)
    across = step(f"{POD_A.title} pings {POD_C.title} on the other node", lambda: evidence.ping_across(lab))
    report.across(across)
    full = step("pinging with full-size packets", lambda: evidence.ping_full_size(lab))
    seconds = 2 * traffic.IPERF_S
    there, back = step(f"TCP for {seconds} s, both directions", lambda: traffic.iperf(lab, POD_A, POD_C))
    report.throughput(full, there, back)
    return Evidence(
        kinds, devices, same, across, full, there, back, before, evidence.count(lab), evidence.look_at_daemons(lab)
    )


def _start(lab: Lab, kinds: tuple[Kind, Kind]) -> None:
    """Both VTEPs at once, then wait for both."""
    for node, kind in zip(NODES, kinds, strict=True):
        vtep.set_up(lab, node, kind)
    for node in NODES:
        vtep.wait_ready(lab, node)


def _console(json_wanted: bool) -> Console:
    """Where the steps are shown: nowhere beside JSON; a log file gets wider lines than rich's 80."""
    console = Console(quiet=json_wanted)
    return console if console.is_terminal else Console(quiet=json_wanted, width=LOG_WIDTH)
