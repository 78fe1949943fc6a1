"""Traffic of the walk-through: runs `ping` and `iperf3` inside the pods and parses their reports."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from subprocess import Popen

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import LabNode, Pod
from vxland.model.errors import StartError

PINGS = 3
IPERF_S = 2  # each direction
IPERF_PORT = 5201
CONNECT_S = 5.0  # within which a server listens again after the previous transfer

_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) received")
_TTL = re.compile(r"\bttl=(\d+)")
_AVERAGE = re.compile(r"^rtt \S+ = [\d.]+/([\d.]+)/", re.MULTILINE)
_NOT_THERE = "unable to connect to server"
_LISTENING = re.compile(rf"^ *\d+: [0-9A-F]+:{IPERF_PORT:04X} \S+ 0A ", re.MULTILINE)  # 0A: TCP_LISTEN


@dataclass(frozen=True, slots=True)
class Ping:
    """One run of ping: the command, its output, and the numbers in it."""

    command: str
    output: str
    sent: int
    received: int
    ttls: tuple[int, ...]
    average_ms: float = 0.0  # of the round trips

    @property
    def complete(self) -> bool:
        """Whether every request was answered."""
        return 0 < self.sent == self.received


@dataclass(frozen=True, slots=True)
class Throughput:
    """One transfer over TCP or UDP; `error` is iperf3's error message, and the rate is then 0."""

    gbit_s: float
    retransmits: int  # TCP's
    error: str = ""
    octets: int = 0  # received bytes; `vxland bench --soak --json` has this key
    lost_percent: float = 0.0  # UDP's
    back_gbit_s: float = 0.0  # received in the other direction meanwhile, with --bidir


def ping(lab: Lab, source: LabNode | Pod, target: IPv4Address, *options: str) -> Ping:
    """Ping from a node or from inside a pod, PINGS times, five a second."""
    argv = ("ping", "-n", "-c", str(PINGS), "-i", "0.2", "-W", "2", *options, str(target))
    done = shell.attempt(shell.exec_in(lab.namespace(source), *argv))
    return parse_ping(" ".join(argv), done.stdout + done.stderr)


def parse_ping(command: str, output: str) -> Ping:
    """Return the numbers in the output of iputils' ping; zero requests if it printed an error instead."""
    counts = _COUNTS.search(output)
    sent, received = (int(counts[1]), int(counts[2])) if counts else (0, 0)
    average = _AVERAGE.search(output)
    ttls = tuple(int(ttl) for ttl in _TTL.findall(output))
    return Ping(command, output.strip(), sent, received, ttls, float(average[1]) if average else 0.0)


def iperf(lab: Lab, source: Pod, target: Pod) -> tuple[Throughput, Throughput]:
    """Run one TCP stream from source to target, then one back."""
    with iperf_server(lab, target):
        return transfer(lab, source, target.address, IPERF_S), transfer(lab, source, target.address, IPERF_S, "-R")


@contextmanager
def iperf_server(lab: Lab, at: LabNode | Pod) -> Iterator[None]:
    """Run `iperf3 -s` on a node or in a pod while the block runs; StartError if it does not listen."""
    server = lab.start("iperf3", at, ("iperf3", "-4", "-s", "-p", str(IPERF_PORT)), dict(os.environ))
    try:
        _wait_until_listening(lab, at, server)
        yield
    finally:
        lab.stop("iperf3")


def transfer(lab: Lab, source: LabNode | Pod, target: IPv4Address, seconds: int, *options: str) -> Throughput:
    """Run iperf3 once towards `target`, whose server may be restarting: it does not listen between two runs."""
    argv = iperf_client(target, seconds, *options)
    end = time.monotonic() + CONNECT_S
    while True:
        done = shell.attempt(shell.exec_in(lab.namespace(source), *argv), timeout_s=seconds + shell.TIMEOUT_S)
        found = parse_iperf(done.stdout)
        if not found.error.startswith(_NOT_THERE) or time.monotonic() > end:
            return found
        time.sleep(0.1)


def iperf_client(target: IPv4Address, seconds: int, *options: str) -> tuple[str, ...]:
    """Return the command of one run of iperf3, whose report `parse_iperf` reads."""
    return ("iperf3", "-4", "-J", "-c", str(target), "-p", str(IPERF_PORT), "-t", str(seconds), *options)


def parse_iperf(report: str) -> Throughput:
    """Return the receiver's rate from iperf3's JSON report."""
    try:
        found = json.loads(report)
    except ValueError:
        return Throughput(0.0, 0, "iperf3 printed no report")
    end = found.get("end", {})
    if "error" in found or "sum_received" not in end:
        return Throughput(0.0, 0, str(found.get("error", "iperf3's report lacks the receiver's end")))
    arrived, sent = end["sum_received"], end["sum_sent"]
    return Throughput(
        arrived["bits_per_second"] / 1e9,
        int(sent.get("retransmits", 0)),
        octets=int(arrived.get("bytes", 0)),
        lost_percent=float(arrived.get("lost_percent", 0.0)),
        back_gbit_s=end.get("sum_received_bidir_reverse", {}).get("bits_per_second", 0.0) / 1e9,
    )


def stalled_s(report: str, seconds: float) -> float:
    """Return how much of these seconds has no interval with bytes in iperf3's JSON report, to a tenth."""
    try:
        sums = [interval["sum"] for interval in json.loads(report)["intervals"]]
    except (ValueError, KeyError):
        sums = []
    moving_s: float = sum(one["seconds"] for one in sums if one["bytes"])
    return max(0.0, round(seconds - moving_s, 1))


def _wait_until_listening(lab: Lab, at: LabNode | Pod, server: Popen[bytes], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    sockets = Path("/proc/thread-self/net/tcp")  # of the reading thread, which is inside the pod
    while not _LISTENING.search(shell.inside(lab.namespace(at), sockets.read_text)):
        if server.poll() is not None or time.monotonic() > end:
            words = lab.log("iperf3").read_text(errors="replace").strip()
            cause = f"iperf3 does not listen in {at.title}: {words}"
            raise StartError(cause, "run `iperf3 -s` by hand to see why")
        time.sleep(0.02)
