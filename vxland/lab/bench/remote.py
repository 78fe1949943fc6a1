"""`vxland bench --to`: iperf3 from where it is started, a pod for example, to pods where iperf3's server listens.

It leaves the existing overlay as it is: it needs no namespaces, no root and no daemon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Final

from rich.console import Console
from rich.table import Table

from vxland import __version__
from vxland.lab import shell, traffic
from vxland.lab.host import describe
from vxland.lab.traffic import Throughput
from vxland.model.errors import StartError

UDP_LEN: Final = 1400
"""Bytes of payload that fit an overlay MTU of 1450."""

RUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "TCP, 1 stream": (),
    "TCP, 1 stream, back": ("-R",),
    "TCP, 8 streams": ("-P", "8"),
    "TCP, 8 streams, back": ("-P", "8", "-R"),
    "UDP, 500 Mbit/s offered": ("-u", "-b", "500M", "-l", str(UDP_LEN)),
    "UDP, 500 Mbit/s offered, back": ("-u", "-b", "500M", "-l", str(UDP_LEN), "-R"),
}
"""The runs with iperf3's options; `back` is from the address to here."""

Found = dict[str, dict[str, Throughput]]  # by address, then as RUNS


def run(addresses: Sequence[IPv4Address], seconds: int, *, json_wanted: bool) -> int:
    """Measure to each address in turn and print; 0 if every run succeeded, else 1. StartError without iperf3."""
    shell.require_programs("the benchmark", {"iperf3": shell.PACKAGES["iperf3"]})
    notes = Console(stderr=True, soft_wrap=True)
    found: Found = {str(address): {} for address in addresses}
    with notes.status("measuring") as status:
        for run, options in RUNS.items():  # one after the other: they share the machine
            for address in addresses:
                status.update(f"{address}: {run}")
                found[str(address)][run] = _measured(address, seconds, options)
    if json_wanted:
        print(json.dumps(as_json(found, seconds), indent=2))
    else:
        Console(width=None if notes.is_terminal else 100).print(table(found, seconds))
    return int(any(run.error for runs in found.values() for run in runs.values()))


def _measured(address: IPv4Address, seconds: int, options: Sequence[str]) -> Throughput:
    argv = traffic.iperf_client(address, seconds, *options)
    try:
        return traffic.parse_iperf(shell.attempt(argv, timeout_s=seconds + shell.TIMEOUT_S).stdout)
    except StartError as exc:  # it did not end
        return Throughput(0.0, 0, exc.cause)


def as_json(found: Found, seconds: int) -> dict[str, object]:
    """Return every number by address and run, and the machine."""
    runs = {
        address: {
            run: {"error": one.error}
            if one.error
            else {"gbit_s": one.gbit_s, "retransmits": one.retransmits, "lost_percent": one.lost_percent}
            for run, one in some.items()
        }
        for address, some in found.items()
    }
    return {"version": __version__, "seconds": seconds, "to": runs, "machine": describe()}


def table(found: Found, seconds: int) -> Table:
    """Return a table with a row per run and a column per address."""
    shown = Table(title=f"iperf3, {seconds} s each, received", title_justify="left")
    shown.add_column("Gbit/s")
    for address in found:
        shown.add_column(f"to {address}", justify="right")
    for run in RUNS:
        shown.add_row(run, *(_cell(runs[run]) for runs in found.values()))
    return shown


def _cell(run: Throughput) -> str:
    if run.error:
        return run.error
    beside = [
        *([f"{run.retransmits:,} retransmits"] if run.retransmits else []),
        *([f"{run.lost_percent:.2f} % lost"] if run.lost_percent else []),
    ]
    return f"{run.gbit_s:.2f}" + (f" ({', '.join(beside)})" if beside else "")
