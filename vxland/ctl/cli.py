"""The commands of vxlandctl. Exit codes: 0 done, 1 failed at run time, 2 wrongly used or set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from vxland import __version__
from vxland.ctl import show
from vxland.ctl.client import DEFAULT_SOCKET, CtlError, Daemon

_socket_option = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    help=f"The daemon's control.socket.  [default: {DEFAULT_SOCKET}]",
)


class _Group(click.Group):
    """Commands that may raise CtlError."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  as click has it
        try:
            return super().invoke(ctx)
        except CtlError as exc:
            click.echo(f"vxlandctl: {exc}", err=True)
            sys.exit(exc.code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@_socket_option
@click.version_option(__version__, prog_name="vxlandctl")
def main(path: Path | None) -> None:
    """Ask a running vxland what it does, and why.

    Only root and members of the group vxland may. Every command takes --json, whose output is meant for programs, and
    --socket, for nodes with more than one vxland. Exit codes: 0 done, 1 failed or no daemon there, 2 wrongly used, or a
    configuration that is refused.
    """


def command(function: Callable[..., None]) -> click.Command:
    """A command of vxlandctl: called with the Daemon, `as_json`, and its own options."""

    @main.command(function.__name__)
    @_socket_option
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @wraps(function)
    def wrapped(path: Path | None, **options: Any) -> None:  # noqa: ANN401  as click has it
        above = click.get_current_context().find_root().params["path"]
        function(Daemon(path or above or DEFAULT_SOCKET), **options)

    return wrapped


def say(answer: Any, as_json: bool, text: Callable[[Any], str]) -> None:  # noqa: ANN401  as JSON has it
    """Print an answer: for programs, or what `text` makes of it."""
    click.echo(json.dumps(answer) if as_json else text(answer))


@command
def status(daemon: Daemon, as_json: bool) -> None:
    """Show how the node is: readiness, devices, offloads and why any is off, registry, reconciling, firewall."""
    say(daemon.ask("status"), as_json, show.status)


@command
def peers(daemon: Daemon, as_json: bool) -> None:
    """List the leases of the other nodes: subnet, VTEP, MAC, and how long each has been as it is."""
    found = [peer for some in daemon.stream("peers") for peer in some]
    say(found, as_json, show.peers)
