"""The commands of vxlandctl. Exit codes: 0 success, 1 run-time failure, 2 usage or configuration error."""

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

from vxland.ctl import counters, show
from vxland.ctl.client import DEFAULT_SOCKET, INSTANCE_SOCKET, CtlError, DaemonClient
from vxland.ctl.names import NameLookup
from vxland.ops.terminal import Group, completion, version_option

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


@click.group("vxlandctl", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@_socket_option
@_instance_option
@version_option("vxlandctl")
def main(socket: Path | None, instance: str | None) -> None:
    """Show what a running vxland does, and why.

    Only root and members of the group vxland may use it. Every command takes --json, which prints output for programs,
    and --socket or --instance, for nodes with more than one vxland. Exit codes: 0 success, 1 failure or no daemon
    running, 2 usage error or refused configuration.
    """


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of vxlandctl, called with the daemon's client, `as_json`, and its own options."""

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
    """The socket that two options name; None if neither is given."""
    if instance is None:
        return socket
    if socket is not None:
        raise click.UsageError("give --socket or --instance, not both")
    if not instance or "/" in instance:
        raise click.UsageError(f"--instance: {instance!r}: write the part after the @, such as blue")
    return Path(INSTANCE_SOCKET.format(instance))


def say(answer: Any, as_json: bool, text: Callable[[Any], str]) -> None:  # noqa: ANN401  (as JSON has it)
    """Print an answer: as JSON, or as the text that `text` makes of it."""
    click.echo(json.dumps(answer) if as_json else text(show.fit(answer)))


def _warn(lookup: NameLookup) -> None:
    """Say on standard error why names of pods are missing, if they were wanted."""
    if lookup.error:
        click.echo(f"vxlandctl: names of pods are missing: {lookup.error}", err=True)


@command
@click.option("--ready", is_flag=True, help="Print one line, ready or why not: exit 0 if vxland forwards, else 1.")
def status(daemon: DaemonClient, as_json: bool, ready: bool) -> None:
    """Show the state of the node. Readiness, registry, firewall, devices, offloads, and why any of them is off."""
    answer = daemon.ask("status")
    say(answer, as_json, show.readiness if ready else show.status)
    if ready and answer["not_ready"]:
        sys.exit(1)


@command
def peers(daemon: DaemonClient, as_json: bool) -> None:
    """List the other nodes with lease, reachability and traffic.

    RTT is smoothed, and LOSS is that of the last 20 pings. MTU is the overlay's if packets of that size pass, with a
    `<` if they do not. Unhealthy peers follow, with the likely cause and what to check.
    """
    found = [peer for some in daemon.stream("peers") for peer in some]
    say(found, as_json, show.peers)


@command
@click.option(
    "--watch", "every_s", type=click.FloatRange(0.05), metavar="SECONDS", help="Print rates at this interval."
)
@click.option("--count", type=click.IntRange(1), help="Exit after this many lines of --watch.")
def stats(daemon: DaemonClient, as_json: bool, every_s: float | None, count: int | None) -> None:
    """Count frames, bytes and drops, by direction and reason. Totals since the start; with --watch, rates per second.

    docs/drops.md lists the meaning and remedy of each reason.
    """
    before = daemon.ask("stats")
    if every_s is None:
        say(before, as_json, counters.stats)
        return
    if not as_json:
        click.echo(counters.RATES_HEAD)
    for _ in range(count) if count else itertools.count():
        time.sleep(every_s)
        now = daemon.ask("stats")
        say(counters.rates(before, now), as_json, counters.rates_line)
        before = now


@command
def plan(daemon: DaemonClient, as_json: bool) -> None:
    """Show the pending changes to the kernel, as `ip` commands. This changes nothing: the daemon applies them itself.

    Normally there is nothing to change. Changes that stay in the list are those that the kernel refuses: see the log.
    """
    say(daemon.ask("plan"), as_json, show.plan)


@command
@click.argument("src")
@click.argument("dst")
@click.argument("proto", type=click.Choice(["icmp", "tcp", "udp"]), default="icmp")
@click.argument("ports", nargs=-1, type=click.IntRange(0, 65535), metavar="[[SPORT] DPORT]")
@click.option("--live", is_flag=True, help="Follow real frames of the flow, in both directions, until Ctrl-C.")
def trace(
    daemon: DaemonClient, as_json: bool, src: str, dst: str, proto: str, ports: tuple[int, ...], live: bool
) -> None:
    """Show how a packet would be handled, and why. Each decision between SRC and DST, then the datagram or the drop.

    \b
    vxlandctl trace 10.244.0.19 10.244.1.13                    an echo request
    vxlandctl trace 10.244.0.19 10.244.1.13 tcp 80             to port 80
    vxlandctl trace 10.244.0.19 10.244.1.13 udp 40000 53       a whole flow: its ports select the outer source port

    Nothing is sent: a frame passes through the same code with the current table. With a SRC on another node, this shows
    the checks that the node's datagram must pass here. With --live the frames are real ones, each with the decision
    about it; of any protocol if none is given. Packets between the two addresses that the kernel drops, before or
    behind vxland, appear too, with the kernel's reason: that needs the capabilities BPF and PERFMON, which root has.
    """  # noqa: D301  (click keeps the lines after its \b)
    if len(ports) > MAX_PORTS:
        raise click.UsageError("give at most two ports: [SPORT] DPORT")
    sport, dport = (0, 0, *ports)[-2:]
    if live:
        from vxland.ctl.capture import Session, of_flow  # noqa: PLC0415  (nothing that other commands should load)
        from vxland.ctl.kernel_drops import showing_kernel_drops  # noqa: PLC0415  (as above)

        given = click.get_current_context().get_parameter_source("proto") is not ParameterSource.DEFAULT
        session = Session(of_flow(src, dst, proto if given else "", sport, dport))
        with showing_kernel_drops(src, dst, as_json=as_json):
            session.run(daemon, None, as_json=as_json)
        return
    answer = daemon.ask("trace", src=src, dst=dst, proto=proto, sport=sport, dport=dport)
    outer = answer["outer"] or {}
    lookup = NameLookup(daemon)
    answer["names"] = lookup.find([src, dst, outer.get("src"), outer.get("dst")])
    say(answer, as_json, show.trace)
    _warn(lookup)


@command
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="NODE|SUBNET|VTEP",
    help="Test only these peers: the node's name, its subnet, an address in it, or its VTEP's address; repeatable.",
)
@click.option("--dnat", is_flag=True, help="Connect through nat rules too, as to a NodePort; they are removed again.")
def test(daemon: DaemonClient, as_json: bool, targets: tuple[str, ...], dnat: bool) -> None:
    """Test the overlay to every peer. Pings, full-size packets, UDP, TCP and checksums. Exit 1 if any check fails.

    \b
    vxlandctl test                                             every peer
    vxlandctl test --to 10.244.1.0/24 --to 192.168.111.130     these two

    Packets take the way of pods' packets, from this node's overlay address on. Peers that run vxland answer on
    probe.responder_port; others are pinged only, and the matrix says so. Ctrl-C ends the test and prints the
    results so far.
    """  # noqa: D301  (click keeps the lines after its \b)
    from vxland.ctl import path_test  # noqa: PLC0415  (nothing that other commands should load)

    if not path_test.run(daemon, targets, dnat=dnat, as_json=as_json):
        sys.exit(1)


@command
def reload(daemon: DaemonClient, as_json: bool) -> None:
    """Make vxland read its configuration file again, like SIGHUP. Exit 2 with one line per problem if it is refused.

    Changes of peers, source_check and sources apply immediately. A file that is invalid, or that changes other
    settings, changes nothing.
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
    help="The time between updates.",
)
@click.option("--once", is_flag=True, help="Print one frame, after one interval, and exit.")
def top(daemon: DaemonClient, as_json: bool, every_s: float, once: bool) -> None:
    """Watch rates, drops and peers, until q or Ctrl-C."""
    from vxland.ctl import top as view  # noqa: PLC0415  (rich: nothing that other commands should load)

    view.run(daemon, every_s, once=once, as_json=as_json)


@command
def drops(daemon: DaemonClient, as_json: bool) -> None:
    """List the last dropped frames: time, reason, peer and contents.

    In a flood some are missing, because the data path copies only a few of each burst. `stats` counts all of them.
    """
    answer = daemon.ask("drops")
    ends = [[each[end] for end in ("src", "dst", "outer")] for each in answer]
    lookup = NameLookup(daemon)
    lookup.find(itertools.chain.from_iterable(ends))
    for each, addresses in zip(answer, ends, strict=True):
        each["names"] = lookup.find(addresses)
    say(answer, as_json, show.drops)
    _warn(lookup)


@command
@click.argument("expression", nargs=-1, metavar="[FILTER]...")
@click.option(
    "-w",
    "--write",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write pcapng, to standard output with -.",
)
@click.option("--inner", is_flag=True, help="Show frames as they are on the overlay device; this is the default.")
@click.option("--outer", is_flag=True, help="Show datagrams as they are on the underlay.")
@click.option("--dropped", is_flag=True, help="Show only dropped frames.")
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many frames.")
@click.option("-s", "--snaplen", type=click.IntRange(0), default=0, help="Bytes to keep of each frame.  [default: all]")
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
    """Show frames with the decision about each, until Ctrl-C. As text, as JSON, or as a pcapng file.

    \b
    vxlandctl capture host 10.244.1.3 and tcp port 80
    vxlandctl capture --dropped
    vxlandctl capture -w - | tcpdump -nr -
    vxlandctl capture --outer -w - peer 192.168.111.129 | wireshark -k -i -

    FILTER consists of [src|dst] host, net and port; peer (the other VTEP's underlay address); ip, ip6, arp, icmp, tcp
    and udp; encap and decap; forwarded, answered and dropped; and, or, not and parentheses. All but peer refer to the
    inner frame. Frames that the reader is too slow for are lost, and counted at the end; the daemon never waits.
    """  # noqa: D301  (click keeps the lines after its \b)
    from vxland.ctl.capture import Session  # noqa: PLC0415  (nothing that other commands should load)

    inner = inner or not outer
    session = Session(" ".join(expression), inner=inner, outer=outer, dropped=dropped, snaplen=snaplen, count=count)
    session.run(daemon, write, as_json=as_json)


@command
@click.option(
    "-o",
    "--output",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="The archive, standard output with -.  [default: vxland-support-NODE-TIME.tar.gz in the current directory]",
)
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, readable=False),
    default=Path("/etc/vxland/vxland.yaml"),
    show_default=True,
    help="The configuration file to check.",
)
def support(daemon: DaemonClient, as_json: bool, output: str | None, config: Path) -> None:
    """Write one archive with what others need to help: state, settings, versions, the kernel's part, and log events.

    It works without a daemon, with what can be had. It takes status, peers, stats, drops and plan; the settings in
    force, `vxland check --here` of the file, versions, and the latest log events; links, addresses, routes, sysctls,
    counters, queueing disciplines, offloads, tc filters, and firewall rules that concern the overlay. The summary lists
    what it took, and what it could not get. Run it as root, or parts of the kernel's state are missing.

    It has addresses, MACs and names, but no payload, and no passwords, keys and tokens that vxland knows or that show
    by their form. Only its owner can read the file. It has at most 32 MiB before compression, and takes a minute at
    most.
    """
    from vxland.ctl.support_file import write  # noqa: PLC0415  (nothing that other commands should load)

    write(daemon, config, output, as_json=as_json)


main.add_command(completion("vxlandctl"))
