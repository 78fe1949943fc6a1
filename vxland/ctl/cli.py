"""The commands of vxlandctl. Exit codes: 0 done, 1 failed at run time, 2 wrongly used or set."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vxland import __version__
from vxland.ctl import show
from vxland.ctl.client import DEFAULT_SOCKET, INSTANCE_SOCKET, CtlError, DaemonClient
from vxland.ops.terminal import Group

_socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),
    help=f"The daemon's control.socket.  [default: {DEFAULT_SOCKET}]",
)
_instance_option = click.option(
    "--instance", metavar="NAME", help=f"The daemon of vxland@NAME.service: {INSTANCE_SOCKET.format('NAME')}."
)

MAX_PORTS = 2


class _Group(Group):
    """Commands that may raise CtlError."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (as click has it)
        try:
            return super().invoke(ctx)
        except CtlError as exc:
            click.echo(f"vxlandctl: {exc}", err=True)
            sys.exit(exc.code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@_socket_option
@_instance_option
@click.version_option(__version__, prog_name="vxlandctl")
def main(socket: Path | None, instance: str | None) -> None:
    """Ask a running vxland what it does, and why.

    Only root and members of the group vxland may. Every command takes --json, whose output is meant for programs, and
    --socket or --instance, for nodes with more than one vxland. Exit codes: 0 done, 1 failed or no daemon there,
    2 wrongly used, or a configuration that is refused.
    """


def command(function: Callable[..., None]) -> click.Command:
    """A command of vxlandctl: called with the Daemon, `as_json`, and its own options."""

    @main.command(function.__name__)
    @_socket_option
    @_instance_option
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @wraps(function)
    def wrapped(socket: Path | None, instance: str | None, **options: Any) -> None:  # noqa: ANN401  (as click has it)
        above = click.get_current_context().find_root().params
        path = _meant(socket, instance) or _meant(above["socket"], above["instance"]) or DEFAULT_SOCKET
        function(DaemonClient(path), **options)

    return wrapped


def _meant(socket: Path | None, instance: str | None) -> Path | None:
    """The socket that two options name; None where neither is given."""
    if instance is None:
        return socket
    if socket is not None:
        raise click.UsageError("give --socket or --instance, not both")
    if not instance or "/" in instance:
        raise click.UsageError(f"--instance: {instance!r}: write what stands after the @, such as blue")
    return Path(INSTANCE_SOCKET.format(instance))


def say(answer: Any, as_json: bool, text: Callable[[Any], str]) -> None:  # noqa: ANN401  (as JSON has it)
    """Print an answer: for programs, or what `text` makes of it."""
    click.echo(json.dumps(answer) if as_json else text(show.fit(answer)))


@command
@click.option("--ready", is_flag=True, help="Tell in one line whether frames can move: exit 0 if so, else 1.")
def status(daemon: DaemonClient, as_json: bool, ready: bool) -> None:
    """Show how the node is, and what it lacks: readiness, registry, firewall, devices, offloads and why any is off."""
    answer = daemon.ask("status")
    say(answer, as_json, show.readiness if ready else show.status)
    if ready and answer["not_ready"]:
        sys.exit(1)


@command
def peers(daemon: DaemonClient, as_json: bool) -> None:
    """List the leases of the other nodes: subnet, VTEP, MAC, age, whether each answers pings, how fast, and traffic.

    RTT is smoothed, LOSS is of the last 20 pings, and MTU is the overlay's if packets of that size pass, or `<` it if
    they don't. Below stands what is wrong with whom, and what to look at.
    """
    found = [peer for some in daemon.stream("peers") for peer in some]
    say(found, as_json, show.peers)


@command
@click.option("--watch", "every_s", type=click.FloatRange(0.05), metavar="SECONDS", help="Print rates so often.")
@click.option("--count", type=click.IntRange(1), help="End after so many lines of --watch.")
def stats(daemon: DaemonClient, as_json: bool, every_s: float | None, count: int | None) -> None:
    """Count frames, bytes and drops, by direction and reason. All since start; or, with --watch, rates by the second.

    What each reason means, and what to do about it, is in docs/drops.md.
    """
    before = daemon.ask("stats")
    if every_s is None:
        say(before, as_json, show.stats)
        return
    if not as_json:
        click.echo(show.RATES_HEAD)
    for _ in range(count) if count else itertools.count():
        time.sleep(every_s)
        now = daemon.ask("stats")
        say(show.rates(before, now), as_json, show.rates_line)
        before = now


@command
def plan(daemon: DaemonClient, as_json: bool) -> None:
    """Show what should be changed in the kernel, as `ip` commands. Nothing is touched: the daemon does it by itself.

    While all is well there is nothing to change. What stays there is what the kernel refuses: see the log.
    """
    say(daemon.ask("plan"), as_json, show.plan)


@command
@click.argument("src")
@click.argument("dst")
@click.argument("proto", type=click.Choice(["icmp", "tcp", "udp"]), default="icmp")
@click.argument("ports", nargs=-1, type=click.IntRange(0, 65535), metavar="[[SPORT] DPORT]")
@click.option("--live", is_flag=True, help="Follow real frames of the flow, both ways, until Ctrl-C.")
def trace(
    daemon: DaemonClient, as_json: bool, src: str, dst: str, proto: str, ports: tuple[int, ...], live: bool
) -> None:
    """Tell what would become of a packet, and why. Each decision on its way from SRC to DST, then datagram or drop.

    \b
    vxlandctl trace 10.244.0.19 10.244.1.13                    an echo request
    vxlandctl trace 10.244.0.19 10.244.1.13 tcp 80             to port 80
    vxlandctl trace 10.244.0.19 10.244.1.13 udp 40000 53       a whole flow: its source port decides the outer one

    Nothing is sent: such a frame goes through the same code over the table in force. From a SRC on another node it
    tells the checks that its datagram has to pass here. With --live the frames are real ones, each with what was
    decided of it; of any protocol where none is given.
    """  # noqa: D301  (click keeps the lines after its \b)
    if len(ports) > MAX_PORTS:
        raise click.UsageError("give at most two ports: [SPORT] DPORT")
    sport, dport = (0, 0, *ports)[-2:]
    if live:
        from vxland.ctl.capture import Session, of_flow  # noqa: PLC0415  (nothing that other commands should load)

        given = click.get_current_context().get_parameter_source("proto") is not ParameterSource.DEFAULT
        Session(of_flow(src, dst, proto if given else "", sport, dport)).run(daemon, None, as_json=as_json)
        return
    say(daemon.ask("trace", src=src, dst=dst, proto=proto, sport=sport, dport=dport), as_json, show.trace)


@command
def reload(daemon: DaemonClient, as_json: bool) -> None:
    """Have the configuration file read again, as SIGHUP does. Exit 2 and one line per problem where it is refused.

    Peers, source_check and sources change at once; a file that is refused, or that changes anything else, changes
    nothing.
    """
    answer = daemon.ask("reload")
    say(answer, as_json, show.reload)
    if answer["problems"]:
        sys.exit(2)


@command
@click.option(
    "--interval",
    "every_s",
    type=click.FloatRange(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@click.option("--once", is_flag=True, help="Print one frame, after one interval, and exit.")
def top(daemon: DaemonClient, as_json: bool, every_s: float, once: bool) -> None:
    """Watch rates, drops and peers, until q or Ctrl-C."""
    from vxland.ctl import top as view  # noqa: PLC0415  (rich: nothing that other commands should load)

    view.run(daemon, every_s, once=once, as_json=as_json)


@command
def drops(daemon: DaemonClient, as_json: bool) -> None:
    """List the frames dropped last: when, why, from whom, and what.

    Of a flood some are left out: the data path copies a few of each burst. `stats` counts all of them.
    """
    say(daemon.ask("drops"), as_json, show.drops)


@command
@click.argument("expression", nargs=-1, metavar="[FILTER]...")
@click.option(
    "-w",
    "--write",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write pcapng, to standard output with -.",
)
@click.option("--inner", is_flag=True, help="Frames as the overlay device has them; this is the default.")
@click.option("--outer", is_flag=True, help="Datagrams as they cross the underlay.")
@click.option("--dropped", is_flag=True, help="Only what is dropped.")
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many.")
@click.option(
    "-s", "--snaplen", type=click.IntRange(0), default=0, help="Octets to keep of each frame.  [default: all]"
)
def capture(
    daemon: DaemonClient,
    as_json: bool,
    expression: tuple[str, ...],
    write: str | None,
    inner: bool,
    outer: bool,
    dropped: bool,
    count: int | None,
    snaplen: int,
) -> None:
    """Show frames with what was decided of each, until Ctrl-C. As text, as JSON, or as a pcapng file.

    \b
    vxlandctl capture host 10.244.1.3 and tcp port 80
    vxlandctl capture --dropped
    vxlandctl capture -w - | tcpdump -nr -
    vxlandctl capture --outer -w - peer 192.168.111.129 | wireshark -k -i -

    FILTER is made of [src|dst] host, net and port; peer (the other VTEP's underlay address); ip, ip6, arp, icmp, tcp
    and udp; encap and decap; forwarded, answered and dropped; and, or, not and parentheses. All but peer are of the
    inner frame. What the reader is too slow for is lost, and counted at the end; the daemon never waits.
    """  # noqa: D301  (click keeps the lines after its \b)
    from vxland.ctl.capture import Session  # noqa: PLC0415  (nothing that other commands should load)

    inner = inner or not outer
    session = Session(" ".join(expression), inner=inner, outer=outer, dropped=dropped, snaplen=snaplen, count=count)
    session.run(daemon, write, as_json=as_json)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes words. In ~/.bashrc: `eval "$(vxlandctl completion bash)"`."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415  (as above)

    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(main, {}, "vxlandctl", "_VXLANDCTL_COMPLETE").source())
