"""`vxland bench --flood`: what a good TCP stream keeps while strangers flood the VXLAN port, by what keeps them out.

They are further addresses on node 1's underlay; each sends as fast as a thread can, from one socket. So the CPUs are
shared between them, the stream and the data path, and the last way tells what that costs alone: there they flood
another port of node 2, of which the kernel drops all as soon as its queue is full.
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
from vxland.lab.signals import deafen, stoppable
from vxland.lab.topology import NODES, PORT, UNDERLAY, LabNode
from vxland.model.errors import StartError

STRANGERS = tuple(IPv4Address("192.168.111.77") + number for number in range(8))
LEAD_S = 0.5  # of the flood, before and after the stream
ELSEWHERE = "another port"
CHECKS = {
    "off": {"source_check": "off"},
    "vtep": {"source_check": "vtep"},
    "strict": {"source_check": "strict"},
    "nftables": {"source_check": "vtep", "input_filter": "nftables"},
    ELSEWHERE: {"source_check": "vtep"},
}
"""The ways, as the section `security` of both nodes' files."""


_Place: TypeAlias = tuple[IPv4Address, int]


@dataclass(frozen=True, slots=True)
class Found:
    """One way measured once. Rates are of one second; `seen` is the part of the flood that vxland itself dropped."""

    check: str
    quiet_gbit_s: float
    flooded_gbit_s: float
    flood_pps: float
    seen: float
    daemon_cpu_s: float

    @property
    def kept(self) -> float:
        """The part of the stream that the flood leaves."""
        return self.flooded_gbit_s / self.quiet_gbit_s


def play(strangers: int, rounds: int, seconds: int, *, json_wanted: bool) -> int:
    """Measure every way in turn, `rounds` times; print medians. 0 when all of it was measured. VxlandError."""
    shell.require(("vxland",), "the benchmark", {"nft": "nftables"})
    notes, found = Console(stderr=True, soft_wrap=True), list[Found]()
    with stoppable():
        lab = Lab()
        try:
            sweep()
            for number in range(1, rounds + 1):
                for check in CHECKS:
                    lab = Lab()
                    found.append(_measure(lab, check, strangers, seconds))
                    lab.remove()
                    notes.print(f"round {number}/{rounds}, {check}: {found[-1].kept:.2f} of the stream is left")
        except KeyboardInterrupt:
            notes.print("interrupted; all that the benchmark had made is removed again")
            return 1
        finally:
            with suppress(KeyboardInterrupt):
                deafen()
            lab.remove()
    medians = {check: _median([one for one in found if one.check == check]) for check in CHECKS}
    if json_wanted:
        told = {"machine": describe(), "medians": medians, "rounds": [asdict(one) for one in found]}
        print(json.dumps(told, indent=2))
    else:
        print(_table(medians))
    return 0


def _measure(lab: Lab, check: str, strangers: int, seconds: int) -> Found:
    """One way, in a fresh lab."""
    lab.build()
    left, right = NODES
    shell.ip_batch(lab.namespace(left), [f"addr add {each}/24 dev {UNDERLAY}" for each in STRANGERS[:strangers]])
    for node in NODES:
        settings = vtep.config_of(lab, node) + yaml.safe_dump({"security": CHECKS[check]})
        vtep.start_vxland(lab, node, settings, pure=False)
    for node in NODES:
        vtep.wait_ready(lab, node)
    ends = Ends(lab, left, right, right.vtep_address)
    traffic.ping(lab, left, ends.address)
    port = PORT if check != ELSEWHERE else PORT + 1
    with traffic.iperf_server(lab, right), ExitStack() as stack:
        quiet = load.tcp(ends, 1, seconds)["gbit_s"]
        pids, dropped = memory_pids(lab, right), _dropped(lab)
        span_s = seconds + 2 * LEAD_S
        if port != PORT:
            stack.enter_context(_udp(lab, right, (right.underlay, port)))
        senders = [
            stack.enter_context(_udp(lab, left, (each, 0), (right.underlay, port))) for each in STRANGERS[:strangers]
        ]
        with ThreadPoolExecutor(strangers) as threads:
            before_s = resources.cpu_s(pids)
            floods = [threads.submit(loops.flood, each.fileno(), load.PACKET_LEN, 0.0, span_s) for each in senders]
            flooded = load.tcp(ends, 1, seconds)["gbit_s"]
            seen = _dropped(lab) - dropped  # while the flood goes on: the control socket answers
            sent = sum(flood.result() for flood in floods)
            spent_s = resources.cpu_s(pids) - before_s
    if sent < span_s:
        raise StartError("nothing could be sent to flood the port", "see whether another program filters UDP here")
    return Found(check, quiet, flooded, sent / span_s, seen / sent, spent_s / span_s)


def _udp(lab: Lab, node: LabNode, own: _Place, other: _Place | None = None) -> socket.socket:
    """A socket in the node's namespace."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((str(own[0]), own[1]))
        if other is not None:
            sock.connect((str(other[0]), other[1]))
        return sock

    return shell.inside(lab.namespace(node), make)


def _dropped(lab: Lab) -> int:
    """Datagrams that vxland on node 2 has read and dropped."""
    dropped = vtep.stats(lab, NODES[1])["decap"]["drops"]
    return sum(count for reason, count in dropped.items() if reason not in QUEUES)


def _median(found: Sequence[Found]) -> dict[str, float]:
    names = [field.name for field in fields(Found) if field.name != "check"]
    return {name: median(getattr(one, name) for one in found) for name in (*names, "kept")}


def _table(medians: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown, as docs/security.md has it."""
    lines = [
        "| | TCP, Gbit/s | under flood | kept | flood, kpps | of it read by vxland | vxland, CPU s a second |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for check, found in medians.items():
        stream = f"{found['quiet_gbit_s']:.2f} | {found['flooded_gbit_s']:.2f} | {found['kept']:.0%}"
        flood = f"{found['flood_pps'] / 1000:.0f} | {found['seen']:.0%} | {found['daemon_cpu_s']:.2f}"
        lines.append(f"| {check} | {stream} | {flood} |")
    return "\n".join(lines)
