"""`vxlandctl test`: the results of a test of peers, as a matrix or JSON, with progress while it runs."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from ipaddress import ip_network
from typing import Any, Final

import click

from vxland.ctl import show
from vxland.ctl.client import CtlError, DaemonClient

Answer = Any  # as JSON has it

_COLUMNS: Final = ("ping", "mtu", "udp", "tcp", "checksum", "dnat")
_CELLS: Final = {"passed": "ok", "failed": "FAIL", "skipped": "-"}


def run(daemon: DaemonClient, targets: Iterable[str], *, dnat: bool, as_json: bool) -> bool:
    """Test the peers, print the results, and return whether all passed.

    Ctrl-C prints those that are there, and so does a daemon that goes away: then CtlError follows.
    """
    wanted = ",".join("|".join(_names(target)) for target in targets)
    results: list[Answer] = []
    total: int | None = None
    lost: CtlError | None = None
    try:
        with closing(daemon.stream("test", to=wanted, dnat=dnat)) as items:
            total = next(items)["peers"]
            _progress(results, total)
            for result in items:
                results.append(result)
                _progress(results, total)
    except KeyboardInterrupt:
        pass
    except CtlError as exc:
        if total is None:
            raise
        lost = exc
    finally:
        _progress_end()
    results.sort(key=lambda result: _order(result["subnet"]))
    complete = total is not None and len(results) == total
    passed = complete and all(result["passed"] for result in results)
    if as_json:
        click.echo(json.dumps({"passed": passed, "complete": complete, "peers": results}))
    else:
        click.echo(text(show.fit(results), total))
    if lost is not None:
        raise lost
    return passed


def text(results: list[Answer], total: int | None) -> str:
    """Return the matrix, the reasons of failures, and a summary."""
    lines: list[str] = []
    if results:
        checks = [name for name in _COLUMNS[1:] if name in results[0]["checks"]]
        with_nodes = show.has_nodes(results)
        head = ["SUBNET", "VTEP", *["NODE"] * with_nodes, "PING#", *(name.upper() for name in checks), "NOTE"]
        lines.append(show.table(head, [_row(result, with_nodes) for result in results]))
    for result in results:
        lines += _failures(result)
    failed = sum(not result["passed"] for result in results)
    only_pinged = sum(result["checks"]["udp"]["outcome"] == "skipped" and result["passed"] for result in results)
    summary = f"{len(results)} of {'?' if total is None else total} peers tested: {len(results) - failed} passed"
    summary += f" ({only_pinged} by ping only)" if only_pinged else ""
    return "\n".join([*lines, *([""] if lines else []), f"{summary}, {failed} failed"])


def _row(result: Answer, with_nodes: bool) -> list[str]:
    cells = {name: _CELLS[result["checks"][name]["outcome"]] for name in _COLUMNS if name in result["checks"]}
    if cells["ping"] == "ok" and result["rtt_s"] is not None:
        cells["ping"] = f"{result['rtt_s'] * 1e3:.3g} ms"
    notes = [result["note"]] if result["note"] else []
    if result["sent_again"]:
        notes.append(f"TCP sent {result['sent_again']} segments again")
    node = [result["node"] or "-"] if with_nodes else []
    return [result["subnet"], result["vtep"], *node, *cells.values(), "; ".join(notes)]


def _failures(result: Answer) -> Iterator[str]:
    seen: set[str] = set()
    for name in _COLUMNS:
        check = result["checks"].get(name)
        if check and check["outcome"] == "failed" and check["happened"] not in seen:
            seen.add(check["happened"])
            yield ""
            yield f"{result['subnet']} at {result['vtep']}: {name}: {check['happened']}"
            yield show.look_at(check["remedy"])


def _names(target: str) -> list[str]:
    """Return a subnet or address as it is; a name with the addresses that the system resolves it to."""
    try:
        ip_network(target, strict=False)
    except ValueError:
        pass
    else:
        return [target]
    if not target or "," in target or "|" in target:
        raise CtlError(f"--to: {target!r}: give one node, subnet or address, and repeat --to for more", 2)
    try:
        found = socket.getaddrinfo(target, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # the registry may know it
        found = []
    return [target, *sorted({str(sockaddr[0]) for *_, sockaddr in found})]


def _order(subnet: str) -> tuple[int, int]:
    network = ip_network(subnet)
    return network.version, int(network.network_address)


def _progress(results: list[Answer], total: int) -> None:
    if sys.stderr.isatty():
        failed = sum(not result["passed"] for result in results)
        click.echo(f"\r{len(results)} of {total} peers tested, {failed} failed", nl=False, err=True)


def _progress_end() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
