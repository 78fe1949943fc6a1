"""Traffic from end to end and its results: TCP by iperf3, pings by ping, the rest by loops.py.

The sockets are made inside the namespaces and stay there. The loops that use them run in threads of this process, so
all subjects are measured alike.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from statistics import quantiles
from typing import TypeVar

from vxland.lab import shell, traffic
from vxland.lab.bench import loops, resources
from vxland.lab.namespaces import Lab
from vxland.lab.topology import LabNode, Pod
from vxland.model.errors import StartError

T = TypeVar("T")

_REMEDY = "run `vxland demo` to see whether the nodes reach each other"

PACKET_LEN = 64  # bytes of UDP payload, and of a request and its response
PORT = 5202  # next to iperf3's
RECEIVE_BUFFER = 16 << 20  # the counting socket must not lose packets
RCVBUFFORCE = 33  # SO_RCVBUFFORCE, asm-generic/socket.h
IDLE_S = 0.2  # after this silence no more packets are expected
LEAST_SAMPLES = 100  # for a 99th percentile
MAX_SAMPLES = 1 << 20
GIVE_UP_S = 3.0  # timeout of one response
MAX_LOSS = 0.005  # of packets, at a rate that still counts as lossless
PINGS_PER_S = 50
TRIES = 2  # before a rate counts as too high, so that one hiccup of the machine does not decide


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of the load, pods or the nodes themselves: traffic goes from `source` to `target`."""

    lab: Lab
    source: LabNode | Pod
    target: LabNode | Pod

    @property
    def address(self) -> IPv4Address:
        """The target's address in the overlay."""
        return self.target.address if isinstance(self.target, Pod) else self.target.vtep_address


@dataclass(frozen=True, slots=True)
class Packets:
    """Number of packets sent within `seconds`, received within `seconds`, and received in total."""

    sent: int
    in_time: int
    received: int
    seconds: float

    @property
    def pps(self) -> float:
        """Packets received per second."""
        return self.in_time / self.seconds

    @property
    def loss(self) -> float:
        """The part that was lost, 0 to 1."""
        return 1 - self.received / self.sent if self.sent else 1.0


def tcp(ends: Ends, streams: int, seconds: int) -> dict[str, float]:
    """Return Gbit/s, retransmits, and the whole machine's CPU seconds per gigabyte. iperf3's server already runs."""
    before = resources.busy_s()
    done = transferred(ends, seconds, "-P", str(streams))
    busy_s = resources.busy_s() - before
    return {"gbit_s": done.gbit_s, "retransmits": done.retransmits, "cpu_s_per_gb": busy_s / (done.octets / 1e9)}


def transferred(ends: Ends, seconds: int, *options: str) -> traffic.Throughput:
    """Run iperf3 with these options; StartError if nothing arrived. iperf3's server already runs."""
    done = traffic.transfer(ends.lab, ends.source, ends.address, seconds, *options)
    if done.error or not done.octets:
        cause = f"iperf3 {' '.join(options)}: {done.error or 'nothing arrived'}"
        raise StartError(cause, _REMEDY)
    return done


def ping_us(ends: Ends, seconds: float) -> float:
    """Return the average round trip of PINGS_PER_S pings a second, in microseconds; StartError if none returned."""
    options = ("-c", str(round(seconds * PINGS_PER_S)), "-i", str(1 / PINGS_PER_S))
    argv = shell.exec_in(ends.lab.namespace(ends.source), "ping", "-n", "-q", *options, str(ends.address))
    found = traffic.parse_ping("ping", shell.attempt(argv, timeout_s=seconds + shell.TIMEOUT_S).stdout)
    if not found.received:
        raise StartError(f"no ping returned: {found.output}", _REMEDY)
    return found.average_ms * 1000


def packets(ends: Ends, rate: float, seconds: float) -> Packets:
    """Send small UDP packets, `rate` per second or, with 0, a flood; count the received ones."""
    with ExitStack() as stack:
        receiver = stack.enter_context(_udp_receiver(ends))
        sender = stack.enter_context(_udp_sender(ends))
        threads = stack.enter_context(ThreadPoolExecutor(2))
        tally = array("q", [0, 0])
        counting = threads.submit(loops.count, receiver.fileno(), PACKET_LEN, seconds, tally)
        sent = threads.submit(loops.flood, sender.fileno(), PACKET_LEN, rate, seconds).result()
        counting.result()
    return Packets(sent, tally[0], tally[1], seconds)


def highest_rate(ends: Ends, flooded: Packets, seconds: float, steps: int) -> float:
    """Return the highest rate with a loss below MAX_LOSS, as received packets per second; 0 if there is none.

    A flood without loss is the result. Otherwise the range below the sender's rate is halved `steps` times.
    """
    if flooded.loss < MAX_LOSS:
        return flooded.pps
    best = 0.0

    def carried(rate: float) -> bool:
        nonlocal best
        for _ in range(TRIES):
            found = packets(ends, rate, seconds)
            if found.loss < MAX_LOSS:
                best = max(best, found.sent / seconds)
                return True
        return False

    top = flooded.sent / flooded.seconds
    search(carried, top / 32, top, steps)
    return best


def search(good: Callable[[float], bool], low: float, high: float, steps: int) -> float:
    """Return the highest number found good between `low`, never tried, and `high`, known to be bad."""
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if good(middle):
            low = middle
        else:
            high = middle
    return low


def round_trips(ends: Ends, seconds: float) -> dict[str, float]:
    """Return microseconds from a request of PACKET_LEN bytes over TCP to its response: median, 99th percentile.

    Client and server stay on different CPUs, as on two nodes; on one CPU they would switch without a wake-up. A busy
    machine that answers too few requests for a percentile gets ten times as long.
    """
    samples = array("q", bytes(8 * MAX_SAMPLES))
    asked = 0
    with _tcp_pair(ends) as (client, server), ThreadPoolExecutor(2) as threads:
        echoing = threads.submit(_on_cpu, -1, lambda: loops.echo(server.fileno(), PACKET_LEN))
        for factor in (1, 10):
            if asked < LEAST_SAMPLES:
                ask = partial(loops.ask, client.fileno(), PACKET_LEN, seconds * factor, samples)
                asked = threads.submit(_on_cpu, 0, ask).result()
        client.shutdown(socket.SHUT_RDWR)  # ends the echo
        echoing.result()
    if asked < LEAST_SAMPLES:
        cause = f"only {asked} requests were answered in {seconds * 10} s"
        raise StartError(cause, _REMEDY)
    return _percentiles(samples[:asked])


def connections(ends: Ends, seconds: float) -> dict[str, float]:
    """Return connections per second, one after the other, and microseconds of one: median, 99th percentile.

    Each is opened, carries a byte there and one back, and is closed. Client and server stay on different CPUs.
    """
    inside = ends.lab.namespace(ends.source)
    shell.set_sysctl(inside, "ipv4.tcp_tw_reuse", 1)  # the client's ports would run out
    samples = array("q", bytes(8 * MAX_SAMPLES))
    with _listener(ends) as listener, ThreadPoolExecutor(2) as threads:
        _set_timeout(listener, GIVE_UP_S)
        answering = threads.submit(_on_cpu, -1, lambda: loops.accept(listener.fileno()))
        connect = partial(loops.connect, int(ends.address), PORT, seconds, samples)
        made = threads.submit(_on_cpu, 0, lambda: shell.inside(inside, connect)).result()
        listener.shutdown(socket.SHUT_RDWR)  # ends the server
        answering.result()
    if made < LEAST_SAMPLES:
        raise StartError(f"only {made} connections were made in {seconds} s", _REMEDY)
    taken = samples[:made]
    return {"per_s": made / (sum(taken) / 1e9), **_percentiles(taken)}


def _percentiles(samples: array[int]) -> dict[str, float]:
    """Return the median and the 99th percentile of nanoseconds in microseconds."""
    cuts = quantiles(samples, n=100)
    return {"p50_us": cuts[49] / 1000, "p99_us": cuts[98] / 1000}


def _on_cpu(index: int, job: Callable[[], T]) -> T:
    """Run `job` in this thread on one of its allowed CPUs, where the thread stays; return its result."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    return job()


def _udp_receiver(ends: Ends) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, RECEIVE_BUFFER)
        _set_timeout(sock, IDLE_S)
        sock.bind((str(ends.address), PORT))
        return sock

    return shell.inside(ends.lab.namespace(ends.target), make)


def _udp_sender(ends: Ends) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((str(ends.address), PORT))
        return sock

    return shell.inside(ends.lab.namespace(ends.source), make)


def _listener(ends: Ends) -> socket.socket:
    return shell.inside(ends.lab.namespace(ends.target), lambda: socket.create_server((str(ends.address), PORT)))


@contextmanager
def _tcp_pair(ends: Ends) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from source to target with TCP_NODELAY: the client's and the server's socket."""

    def connect() -> socket.socket:
        return socket.create_connection((str(ends.address), PORT), GIVE_UP_S)

    with ExitStack() as stack:
        listener = stack.enter_context(_listener(ends))
        client = stack.enter_context(shell.inside(ends.lab.namespace(ends.source), connect))
        server = stack.enter_context(listener.accept()[0])
        for sock in (client, server):
            sock.settimeout(None)  # makes the descriptor blocking, as the loops need it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _set_timeout(sock, GIVE_UP_S)
        yield client, server


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    whole = int(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, int((seconds - whole) * 1e6)))
