"""`vxland run | flanneld | check | demo | bench`. Exit codes: 0 success, 1 failure, 2 usage or configuration error."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

import click
import structlog

from vxland import __version__
from vxland.config import Settings, clashes, load
from vxland.config.described import described
from vxland.model.errors import ConfigError, FlagError, InvalidConfigError, VxlandError
from vxland.model.finding import Finding
from vxland.model.lease import Mac
from vxland.model.secrets import archived_json
from vxland.model.text import printable
from vxland.ops import log
from vxland.ops.terminal import Group, completion, version_option
from vxland.reconcile.subnet_env import DEFAULT_PATH

_PATH_LEN = 4096  # PATH_MAX
ASSUMED_MTU = 1500  # of an underlay that is not on the machine where a file is checked

_config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("/etc/vxland/vxland.yaml"),
    show_default=True,
    help="The configuration file (YAML).",
)


_LAB = ("bench", "demo")

GC_THRESHOLDS = (2_000, 10, 100)
"""Allocations before a young collection, young collections before an older one, and older ones before a full one.

No thread of Python runs meanwhile: 1 ms for 5,000 objects. By default, a start with 5,000 leases has five full
collections of 35 ms."""


class _Group(Group):
    """Commands that may raise VxlandError. Those of the lab are loaded when they are named, so a node loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the alphabet's order."""
        return sorted([*super().list_commands(ctx), *_LAB])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if cmd_name not in _LAB:
            return super().get_command(ctx, cmd_name)
        gc.enable()
        from vxland.lab import commands  # noqa: PLC0415  (nothing that a node should load)

        return {"bench": commands.bench, "demo": commands.demo}[cmd_name]

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (as click has it)
        try:
            return super().invoke(ctx)
        except VxlandError as exc:
            _fail(exc)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as exc:
            if not log.is_json():
                raise
            structlog.get_logger().exception("fatal", error=f"{type(exc).__name__}: {exc}")
            sys.exit(1)


@click.group("vxland", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("vxland")
def main() -> None:
    """vxland: a userspace VXLAN data plane for flannel clusters.

    It owns a TAP device that replaces flannel.1, and carries its frames over UDP. So a node whose kernel has no vxlan
    can join a cluster of nodes that have it. `vxland demo` shows how it works, `vxland run` runs the daemon, and
    vxlandctl queries a running one. Exit codes: 0 success, 1 run-time failure, 2 usage or configuration error.
    """


@main.command()
@_config_option
@click.option(
    "--subnet-file",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="The path of flannel's subnet.env, written for the CNI plugin.",
)
@click.option(
    "--cleanup", is_flag=True, help="Remove the device, routes and neighbours that a stopped vxland left, and exit."
)
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="The format of events on standard error.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The lowest level of events to show.",
)
def run(path: Path, subnet_file: Path, cleanup: bool, log_format: Literal["console", "json"], log_level: str) -> None:
    """Join the overlay, and forward frames until SIGTERM or SIGINT.

    Needs root or CAP_NET_ADMIN, and /dev/net/tun. When vxland stops, device, routes and neighbours stay in place, as
    with flanneld; --cleanup removes them. SIGHUP makes it read the file again: changes of peers, source_check and
    sources apply immediately, and a refused file changes nothing.
    """
    log.configure(log_format, log_level)  # first: what the imports raise is an event too

    from vxland.node import confinement, daemon, removal  # noqa: PLC0415  (uvloop and netlink: nothing that --help should load)

    try:
        settings = load(path)
    except InvalidConfigError as exc:
        _fail(exc)
    if cleanup:
        removed = _run(removal.cleanup(settings, subnet_file))
        click.echo(f"removed: {', '.join(removed)}" if removed else "nothing to remove")
    else:
        confinement.confine(settings, path, subnet_file)
        daemon.preload(settings)
        _run(daemon.serve(path, settings, subnet_file))


class _Verbatim(click.Command):
    """A command that reads its arguments itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def shell_complete(self, _ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete flanneld's flags, with one dash or two."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415  (nothing that other commands load)

        from vxland.cli.flanneld.flag_table import FLAGS  # noqa: PLC0415  (one command's own)

        dashes = "-" if incomplete.startswith("-") and not incomplete.startswith("--") and len(incomplete) > 1 else "--"
        names = ((f"{dashes}{flag.name}", flag.meaning) for flag in FLAGS)
        return [CompletionItem(name, help=meaning) for name, meaning in names if name.startswith(incomplete or "--")]


@main.command(cls=_Verbatim)
@click.pass_context
def flanneld(ctx: click.Context) -> None:
    """Join a flannel cluster with flanneld's own flags. vxland flanneld --help lists them and their variables."""
    from vxland.cli import flanneld as flags  # noqa: PLC0415  (one command's own)
    from vxland.node import confinement, daemon  # noqa: PLC0415  (as above)

    try:
        command = flags.parse(ctx.args, os.environ)
    except VxlandError as exc:
        _fail(exc, "vxland flanneld")
    if command.help:
        click.echo(flags.help_text())
    elif command.version:
        click.echo(__version__, err=True)
    else:
        log.configure("console", command.log_level)
        for note in command.notes:
            structlog.get_logger().warning("flag_note", note=note)
        confinement.confine(command.settings, command.path, command.subnet_file)
        daemon.preload(command.settings)

        def reread(_: Path) -> Settings:
            return flags.parse(ctx.args, os.environ).settings

        _run(daemon.serve(command.path, command.settings, command.subnet_file, reread))


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: ok, problems, notes, findings, settings.")
@click.option("--here", is_flag=True, help="This machine is the node: check the machine too.")
def check(path: Path, as_json: bool, here: bool) -> None:
    """Check a configuration file. Exit 0, or exit 2 with one line per problem (key: value: remedy).

    On the node itself this also checks the underlay, as `vxland run` does: interface, address, MTU, and peers that have
    the node's own address. A machine counts as the node if it has an interface or address in the file, or is in the
    subnet of the missing address; if the file names none, if it has an address at all; or with --here. Elsewhere an MTU
    of 1500 is assumed, and a note says so.

    With --here, as root, it also looks at the machine for what would keep vxland from starting, or packets of pods from
    arriving: /dev/net/tun, capabilities, the UDP port and its owner, flannel, forwarding and firewall rules, rp_filter,
    br_netfilter, MTUs, udev, NetworkManager, and BPF for the fast path. Each line has the subject, what was found, what
    it does to pods, and the remedy. An error makes the exit code 2; a warning does not.
    """
    notes: list[str] = []
    problems: list[ConfigError] = []
    findings: list[Finding] = []
    settings: Settings | None = None
    try:
        settings = load(path)
        problems += _underlay_problems(settings, here, notes)
        if here:
            findings = _examine(settings, problems)
    except InvalidConfigError as exc:
        problems += exc.problems
    refused = bool(problems) or any(each.level == "error" for each in findings)
    if as_json:
        found = [{"key": p.key, "value": archived_json(p.value), "remedy": p.remedy} for p in problems]
        answer = {"ok": not refused, "problems": found, "notes": notes, "findings": list(map(asdict, findings))}
        answer["settings"] = None if settings is None else described(settings)
        click.echo(json.dumps(answer, default=str))
    else:
        for note in notes:
            click.echo(f"note: {note}", err=True)
        for each in (*problems, *findings):
            is_warning = isinstance(each, Finding) and each.level == "warning"
            click.echo(f"warning: {each}" if is_warning else str(each), err=is_warning)
        if not refused:
            click.echo(f"{printable(str(path), _PATH_LEN)}: good")
    if refused:
        sys.exit(2)


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401  (what the coroutine has)
    """Run to the end; exit 2 on a configuration error, 1 on any other failure."""
    from vxland.kernel.event_loop import new_event_loop  # noqa: PLC0415  (uvloop: as above)
    from vxland.model.shortage import shortage  # noqa: PLC0415  (as above)

    # What is imported stays: the collector need not look at it, now or at the end. A third of the CPU time of a start.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)
    except VxlandError as exc:
        _fail(exc)
    except OSError as exc:
        if short := shortage(exc, exc.filename or "what vxland needs"):
            _fail(short)
        raise
    except KeyboardInterrupt:  # before or after the time that SIGINT has a handler
        sys.exit(130)


def _fail(exc: VxlandError, program: str = "vxland") -> NoReturn:
    if log.is_json():
        for problem in exc.problems if isinstance(exc, InvalidConfigError) else [exc]:
            fields = {
                name: getattr(problem, name) for name in ("key", "value", "cause", "remedy") if hasattr(problem, name)
            }
            structlog.get_logger().error("fatal", error=str(problem), **fields)
        sys.exit(2 if isinstance(exc, ConfigError | InvalidConfigError | FlagError) else 1)
    for line in str(exc).split("\n"):
        click.echo(f"{program}: {line}", err=True)
    sys.exit(2 if isinstance(exc, ConfigError | InvalidConfigError | FlagError) else 1)


main.add_command(completion("vxland"))


def _examine(settings: Settings, problems: list[ConfigError]) -> list[Finding]:
    """Return what a look at this machine finds; problems of the settings that only it shows are added to `problems`."""
    from vxland.node.preflight.examine import Preflight  # noqa: PLC0415  (as above)

    log.configure("console", "error")  # what would be logged is a finding, or none
    preflight = Preflight(settings, DEFAULT_PATH)
    asyncio.run(preflight.examine())
    known = set(map(str, problems))
    problems += [problem for problem in preflight.problems if str(problem) not in known]
    return preflight.findings


def _underlay_problems(settings: Settings, here: bool, notes: list[str]) -> list[ConfigError]:
    """Problems that `run` would find with the underlay of this machine, or an assumed one; notes say which."""
    from vxland.node import underlays  # noqa: PLC0415  (as above)

    vteps = [lease.vtep.address for lease in settings.peers]
    addresses = [address for address in (settings.underlay.address, *vteps) if address is not None]
    mtu, family = ASSUMED_MTU, addresses[0].version if addresses else 4
    problems: list[ConfigError] = []
    try:
        underlay = asyncio.run(underlays.find_underlay(settings))
    except ConfigError as exc:
        if here or asyncio.run(underlays.is_here(settings)):
            return [exc]
        notes.append(f"the underlay is not on this machine, so an MTU of {ASSUMED_MTU} is assumed for it ({exc})")
    except VxlandError as exc:
        notes.append(f"the underlay cannot be examined, so an MTU of {ASSUMED_MTU} is assumed for it ({exc})")
    else:
        mtu, family = underlay.mtu, underlay.address.version
        problems += clashes(settings, underlay.address, settings.overlay.mac or Mac(0))
    try:
        settings.overlay_mtu(mtu, family)
    except ConfigError as exc:
        problems.append(exc)
    return problems
