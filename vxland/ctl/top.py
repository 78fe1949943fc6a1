"""`vxlandctl top`: readiness, rates, drops and peers on one screen, updated every interval."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vxland.ctl import counters, show
from vxland.ctl.client import CtlError, DaemonClient

Answer = Any  # as JSON has it

_ROWS = 15  # peers on one screen
_PREFIXES = ("", "k", "M", "G", "T")
_DIRECTIONS = {"encap": "TAP to UDP", "decap": "UDP to TAP"}


@dataclass(frozen=True, slots=True)
class TopView:
    """Contents of one screen: the node now, and rates since the previous screen."""

    status: Answer
    stats: Answer
    rates: Answer
    peers: Answer

    def as_json(self) -> str:
        """Return the same for programs."""
        return json.dumps({"status": self.status, "stats": self.stats, "rates": self.rates, "peers": self.peers})


def run(daemon: DaemonClient, every_s: float, *, once: bool, as_json: bool) -> None:
    """Show views until interrupted, or one."""
    views = _views(daemon, every_s, time.sleep)
    with suppress(KeyboardInterrupt):
        if as_json:
            for view in views:
                click.echo(view.as_json())
                if once:
                    return
        elif once or not sys.stdout.isatty():
            for view in views:
                _console().print(screen(view))
                if once:
                    return
        else:
            with Live(Text("..."), console=_console(), screen=True, auto_refresh=False) as live, _keyboard() as pause:
                _show(daemon, every_s, live, pause)


def _show(daemon: DaemonClient, every_s: float, live: Live, pause: Callable[[float], None]) -> None:
    """Show views on the screen, and while the daemon restarts, that it is gone."""
    seen = False
    while True:
        try:
            for view in _views(daemon, every_s, pause):
                live.update(screen(view), refresh=True)
                seen = True
        except CtlError as exc:
            if not seen:  # a wrong socket
                raise
            live.update(Text(f"{exc}\n\nwaiting for the daemon; q ends this"), refresh=True)
            pause(every_s)


def _console() -> Console:
    """Return a console that takes texts as they are: a name with brackets or colons is no markup."""
    return Console(markup=False, emoji=False, highlight=False)


def screen(view: TopView) -> RenderableType:
    """A view, drawn."""
    view = TopView(*(show.fit(each) for each in (view.status, view.stats, view.rates, view.peers)))
    return Group(_head(view.status), _traffic(view), _drops(view), _peers(view.peers))


@contextmanager
def _keyboard() -> Iterator[Callable[[float], None]]:
    """Give a sleep that `q` ends, with KeyboardInterrupt as Ctrl-C does; an ordinary one without a terminal."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0] and os.read(fd, 1) in {b"q", b"Q", b""}:
                raise KeyboardInterrupt

    tty.setcbreak(fd, termios.TCSANOW)  # what was typed before counts
    try:
        yield pause
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _views(daemon: DaemonClient, every_s: float, pause: Callable[[float], None]) -> Iterator[TopView]:
    before = daemon.ask("stats")
    while True:
        pause(every_s)
        stats = daemon.ask("stats")
        peers = [peer for some in daemon.stream("peers") for peer in some]
        yield TopView(daemon.ask("status"), stats, counters.rates(before, stats), peers)
        before = stats


def _head(status: Answer) -> RenderableType:
    why = status["not_ready"]
    line = Text.assemble(
        ("not ready: " + why, "bold red") if why else ("ready", "bold green"),
        f"   up {show.span(status['uptime_s'])}   gear: {status['gear']}   registry: {status['registry']['kind']}, "
        f"leases: {status['registry']['leases']}",
    )
    lines = [line]
    if error := status["registry"]["error"]:
        lines.append(Text(f"registry: {error}", style="red"))
    lines += [Text(trouble, style="red") for trouble in status["troubles"]]
    for plane in status["planes"]:
        off = "".join(f", {name} off" for name in plane["offloads_off"])
        lines.append(
            Text(
                f"{plane['device']}  {', '.join(plane['subnets'])}  VNI {plane['vni']}  MTU {plane['mtu']}  over "
                f"{plane['underlay']['address']} ({plane['underlay']['interface']}), {plane['workers']} workers{off}"
                f"{', fast path' if plane.get('fast_path', {}).get('on') else ''}"
            )
        )
    return Panel(Group(*lines), title=f"vxland {status['version']}", title_align="left", border_style="dim")


def _traffic(view: TopView) -> RenderableType:
    table = _table("", "frames/s#", "bit/s#", "drops/s#", "frames#", "bytes#", "dropped#")
    for direction, meaning in _DIRECTIONS.items():
        rate, done = view.rates[direction], view.stats[direction]
        lost = sum(rate["drops"].values())
        table.add_row(
            Text.assemble((direction, "bold"), " ", (meaning, "dim")),
            _scaled(rate["frames"]),
            _scaled(rate["bytes"] * 8),
            Text(_scaled(lost), style="bold red" if lost else ""),
            _scaled(done["frames"]),
            _scaled(done["bytes"]),
            _scaled(sum(done["drops"].values())),
        )
        if part := rate.get("fast_path"):  # an older daemon has none
            carried = view.stats["fast_path"][direction]
            now, ever = (part["frames"], part["bytes"] * 8), (carried["frames"], carried["bytes"])
            table.add_row("  by programs", *map(_scaled, now), "", *map(_scaled, ever), "", style="dim")
    return table


def _drops(view: TopView) -> RenderableType:
    table = _table("dropped", "reason", "drops/s#", "drops#")
    for direction in _DIRECTIONS:
        rates = view.rates[direction]["drops"]
        for reason, count in view.stats[direction]["drops"].items():
            if count:
                style = "bold red" if reason in rates else ""
                table.add_row(direction, Text(reason, style=style), _scaled(rates.get(reason, 0)), _scaled(count))
    return table if table.row_count else Text("   no drops", style="dim")


def _peers(peers: Answer) -> RenderableType:
    nodes = ["node"] if show.has_nodes(peers) else []
    table = _table("subnet", "vtep", *nodes, "state", "rtt#", "loss#", "encap#", "decap#")
    if len(peers) > _ROWS:
        table.caption = f"and {len(peers) - _ROWS} more: vxlandctl peers"
    for peer in sorted(peers, key=_is_well)[:_ROWS]:
        state, rtt, loss, _ = show.probe_words(peer["probe"])
        done = [_scaled(peer["traffic"][direction]["bytes"]) for direction in ("encap", "decap")]
        shown = Text(state, style="bold red" if state == "unreachable" else "")
        table.add_row(peer["subnet"], peer["vtep"], *(peer["node"] for _ in nodes), shown, rtt, loss, *done)
    return table


def _is_well(peer: Answer) -> bool:
    """Return whether a peer has no problem; peers with problems come first."""
    return not peer["probe"] or not peer["probe"]["cause"]


def _table(*heads: str) -> Table:
    """Return an empty table; columns whose heading ends with `#` hold numbers, which a narrow terminal does not cut."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        is_number = head.endswith("#")
        table.add_column(head.rstrip("#"), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _scaled(value: float) -> str:
    """Return a number in at most four digits with an SI prefix."""
    for prefix in _PREFIXES:
        if value < 1000 or prefix == _PREFIXES[-1]:
            break
        value /= 1000
    return f"{value:.0f}{prefix}" if not prefix or value >= 100 else f"{value:.1f}{prefix}"
