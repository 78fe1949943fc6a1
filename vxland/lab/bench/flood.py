"""`vxland bench --flood`: throughput of a TCP stream while unknown senders flood the VXLAN port, for each filter.

The unknown senders are further addresses on node 1's underlay. Each sends from one socket as fast as a thread can, so
the senders, the stream and the data path share the CPUs. The last case measures that cost alone: the flood goes to
another port of node 2, where the kernel drops all datagrams as soon as the queue is full.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Address
from statistics import median
from typing import TypeAlias

import yaml
from rich.console import Console

from vxland.inspect.reasons import QUEUES
from vxland.lab import shell, traffic, vtep
from vxland.lab.bench import load, loops, resources
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.host import describe
from vxland.lab.namespaces import Lab, sweep
from vxland.lab.signals import ignore_signals, interruptible
from vxland.lab.topology import NODES, PORT, UNDERLAY, LabNode
from vxland.model.errors import StartError

UNKNOWN_SENDERS = tuple(IPv4Address("192.168.111.77") + number for number in range(8))
LEAD_S = 0.5  # flood before and after the stream
ELSEWHERE = "another port"
CHECKS = {
    "off": {"source_check": "off"},
    "vtep": {"source_check": "vtep"},
    "strict": {"source_check": "strict"},
    "nftables": {"source_check": "vtep", "input_filter": "nftables"},
    ELSEWHERE: {"source_check": "vtep"},
}
"""The filters, as the section `security` of both nodes' files."""


_Place: TypeAlias = tuple[IPv4Address, int]


@dataclass(frozen=True, slots=True)
class Found:
    """One filter, measured once. Rates are per second; `seen` is the part of the flood that vxland itself dropped."""

    check: str
    quiet_gbit_s: float
    flooded_gbit_s: float
    flood_pps: float
    seen: float
    daemon_cpu_s: float

    @property
    def kept(self) -> float:
        """The part of the stream's throughput that is left under the flood."""
        return self.flooded_gbit_s / self.quiet_gbit_s


def run(senders: int, rounds: int, seconds: int, *, json_wanted: bool) -> int:
    """Measure each filter `rounds` times; print medians. 0 if all was measured. VxlandError."""
    shell.require(("vxland",), "the benchmark", {"nft": "nftables"})
    notes, found = Console(stderr=True, soft_wrap=True), list[Found]()
    with interruptible():
        lab = Lab()
        try:
            sweep()
            for number in range(1, rounds + 1):
                for check in CHECKS:
                    lab = Lab()
                    found.append(_measure(lab, check, senders, seconds))
                    lab.remove()
                    notes.print(f"round {number}/{rounds}, {check}: {found[-1].kept:.2f} of the stream is left")
        except KeyboardInterrupt:
            notes.print("interrupted; everything that the benchmark made is removed")
            return 1
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            lab.remove()
    medians = {check: _median([one for one in found if one.check == check]) for check in CHECKS}
    if json_wanted:
        report = {"machine": describe(), "medians": medians, "rounds": [asdict(one) for one in found]}
        print(json.dumps(report, indent=2))
    else:
        print(_table(medians))
    return 0


def _measure(lab: Lab, check: str, senders: int, seconds: int) -> Found:
    """Measure one filter in a fresh lab."""
    lab.build()
    left, right = NODES
    shell.ip_batch(lab.namespace(left), [f"addr add {each}/24 dev {UNDERLAY}" for each in UNKNOWN_SENDERS[:senders]])
    for node in NODES:
        settings = vtep.config_of(lab, node) + yaml.safe_dump({"security": CHECKS[check]})
        vtep.start_vxland(lab, node, settings, pure=False)
    for node in NODES:
        vtep.wait_ready(lab, node)
    ends = Ends(lab, left, right)
    traffic.ping(lab, left, ends.address)
    port = PORT if check != ELSEWHERE else PORT + 1
    with traffic.iperf_server(lab, right), ExitStack() as stack:
        quiet = load.tcp(ends, 1, seconds)["gbit_s"]
        pids, dropped = memory_pids(lab, right), _dropped(lab)
        span_s = seconds + 2 * LEAD_S
        if port != PORT:
            stack.enter_context(_udp(lab, right, (right.underlay, port)))
        sockets = [
            stack.enter_context(_udp(lab, left, (each, 0), (right.underlay, port)))
            for each in UNKNOWN_SENDERS[:senders]
        ]
        with ThreadPoolExecutor(senders) as threads:
            before_s = resources.cpu_s(pids)
            floods = [threads.submit(loops.flood, each.fileno(), load.PACKET_LEN, 0.0, span_s) for each in sockets]
            flooded = load.tcp(ends, 1, seconds)["gbit_s"]
            seen = _dropped(lab) - dropped  # the control socket also answers during the flood
            sent = sum(flood.result() for flood in floods)
            spent_s = resources.cpu_s(pids) - before_s
    if sent < span_s:
        raise StartError("nothing could be sent to flood the port", "see whether another program filters UDP here")
    return Found(check, quiet, flooded, sent / span_s, seen / sent, spent_s / span_s)


def _udp(lab: Lab, node: LabNode, own: _Place, other: _Place | None = None) -> socket.socket:
    """Return a socket in the node's namespace."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((str(own[0]), own[1]))
        if other is not None:
            sock.connect((str(other[0]), other[1]))
        return sock

    return shell.inside(lab.namespace(node), make)


def _dropped(lab: Lab) -> int:
    """Return the number of datagrams that vxland on node 2 read and dropped."""
    dropped = vtep.stats(lab, NODES[1])["decap"]["drops"]
    return sum(count for reason, count in dropped.items() if reason not in QUEUES)


def _median(found: Sequence[Found]) -> dict[str, float]:
    names = [field.name for field in fields(Found) if field.name != "check"]
    return {name: median(getattr(one, name) for one in found) for name in (*names, "kept")}


def _table(medians: Mapping[str, Mapping[str, float]]) -> str:
    """Return a Markdown table, as in docs/security.md."""
    lines = [
        "| | TCP, Gbit/s | under flood | kept | flood, kpps | of it read by vxland | vxland, CPU s a second |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for check, found in medians.items():
        stream = f"{found['quiet_gbit_s']:.2f} | {found['flooded_gbit_s']:.2f} | {found['kept']:.0%}"
        flood = f"{found['flood_pps'] / 1000:.0f} | {found['seen']:.0%} | {found['daemon_cpu_s']:.2f}"
        lines.append(f"| {check} | {stream} | {flood} |")
    return "\n".join(lines)
