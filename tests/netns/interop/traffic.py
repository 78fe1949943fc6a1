"""Traffic between two namespaces: pings, TCP streams and UDP datagrams whose content is compared at the receiver."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from scapy.utils import checksum

from tests.patience import PATIENCE_S

from .lab import Family, Lab
from .ns import Ns, wait_until

PIECE = 8_000_000
"""Bytes sent before and after each change: far more than any buffer holds."""

_BACK = 32  # bytes of a SHA-256
_UDP_SEGMENT = 103  # linux/udp.h

HEADERS: dict[Family, int] = {4: 20 + 8, 6: 40 + 8}
"""IP and ICMP echo headers: the difference between a packet's size and `ping -s`."""


_MTU_DISCOVER: dict[Family, tuple[int, int]] = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # linux/in.h
_PMTUDISC_DO = 2
_ECHO: dict[Family, tuple[int, int, int]] = {4: (socket.IPPROTO_ICMP, 8, 0), 6: (socket.IPPROTO_ICMPV6, 128, 129)}
"""Protocol, and the types of request and reply."""


def ping(source: Ns, address: str, size: int = 56, *options: str) -> None:
    """Send three echo requests with `size` bytes of content, unfragmented, and assert that each has a reply.

    With options of ping(8) each is a run of ping: with more in one run, -W holds only until the first reply. ping then
    gives the others just twice the longest round trip, and reported two of three as lost while the machine was busy.
    """
    if not options:
        _ping_by_socket(source, address, size)
        return
    for _ in range(3):
        done = source.attempt("ping", "-c1", "-W", str(PATIENCE_S), "-s", str(size), "-M", "do", *options, address)
        assert done.returncode == 0, done.stdout + done.stderr


def _ping_by_socket(source: Ns, address: str, size: int) -> None:
    """Do so without a program: a run of ping takes as much CPU time as 30 of these."""
    family: Family = 6 if ":" in address else 4
    protocol, request, reply = _ECHO[family]
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with source.inside(lambda: socket.socket(kind, socket.SOCK_RAW, protocol)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(*_MTU_DISCOVER[family], _PMTUDISC_DO)
        for _ in range(3):
            content = os.urandom(4 + size)  # identifier and sequence number too
            head = bytes((request, 0))
            check = b"\0\0" if family == 6 else checksum(head + b"\0\0" + content).to_bytes(2)  # the kernel's in IPv6
            sock.sendto(head + check + content, (address, 0))
            found = b""
            while found[:2] + found[4:] != bytes((reply, 0)) + content:
                found = sock.recv(1 << 16)
                if family == 4:
                    found = found[4 * (found[0] & 15) :]  # behind the IP header


def send_tcp(source: Ns, target: Ns, address: str, length: int, patience_s: float = PATIENCE_S) -> None:
    """Send one TCP stream of random content; the receiver returns its SHA-256 of it.

    Connecting, sending and waiting for the digest may take `patience_s` each.
    """
    content = os.urandom(length)
    with target.socket(address, socket.SOCK_STREAM) as listener, ThreadPoolExecutor(1) as threads:
        listener.listen()
        listener.settimeout(patience_s)
        receiver = threads.submit(digest_one, listener, patience_s)
        port = listener.getsockname()[1]
        with source.inside(lambda: socket.create_connection((address, port), patience_s)) as sender:
            sender.sendall(content)
            sender.shutdown(socket.SHUT_WR)
            digest = sender.recv(_BACK, socket.MSG_WAITALL)
        assert receiver.result(patience_s) == (digest, length)
    assert digest == hashlib.sha256(content).digest()


def digest_one(listener: socket.socket, patience_s: float = PATIENCE_S) -> tuple[bytes, int]:
    """Return SHA-256 and length of one connection's content; the digest is also sent back."""
    digest = hashlib.sha256()
    length = 0
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(patience_s)
        while part := connection.recv(1 << 18):
            digest.update(part)
            length += len(part)
        connection.sendall(digest.digest())
    return digest.digest(), length


def exchange_udp(source: Ns, source_address: str, target: Ns, target_address: str, sizes: Sequence[int]) -> None:
    """Send datagrams of random content, one by one; the receiver returns each."""
    with source.socket(source_address) as near, target.socket(target_address) as far:
        for size in sizes:
            content = os.urandom(size)
            near.sendto(content, far.getsockname())
            received, whence = far.recvfrom(1 << 16)
            assert received == content, f"{size} length there"
            far.sendto(received, whence)
            assert near.recv(1 << 16) == content, f"{size} length back"


def send_udp_train(source: Ns, source_address: str, target: Ns, target_address: str, size: int, count: int) -> None:
    """Send `count` datagrams of `size` bytes and a shorter one in one call, udp(7)."""
    content = os.urandom(size * count + size // 2)
    with source.socket(source_address) as near, target.socket(target_address) as far:
        near.sendmsg([content], [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))], 0, far.getsockname())
        received = [far.recv(1 << 16) for _ in range(count + 1)]
    assert received == [content[at : at + size] for at in range(0, len(content), size)]


@contextmanager
def no_checksum_errors(*namespaces: Ns) -> Iterator[None]:
    """Fail if a kernel in one of the namespaces drops a packet for its checksum during the body."""
    before = [checksum_errors(ns) for ns in namespaces]
    yield
    assert [checksum_errors(ns) for ns in namespaces] == before


def checksum_errors(ns: Ns) -> dict[str, int]:
    """Return the kernel's counters of packets with a bad inner checksum: TCP, UDP and ICMP of both families."""

    def read() -> dict[str, int]:
        found: dict[str, int] = {}
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            proto, *keys = names.split()
            found |= {proto + key: int(value) for key, value in zip(keys, values.split()[1:], strict=True)}
        for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
            key, value = line.split()
            found[key] = int(value)
        return {key: value for key, value in found.items() if key.endswith("CsumErrors")}

    return ns.inside(read)


PAUSE_S = 0.01
"""Between two blocks of a flow, so that it takes 100 MB/s at most: it crosses what is tested, and loads nothing."""


class Flow:
    """A TCP stream in blocks of a megabyte or less, until `ended` is set."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = Event()

    def send(self, sock: socket.socket) -> bytes:
        """Send until the end; return SHA-256 of the content."""
        digest, block = hashlib.sha256(), os.urandom(1 << 20)
        while not self.ended.is_set():
            part = memoryview(block)[self.sent // 7 % (1 << 18) :]
            sock.sendall(part)
            digest.update(part)
            self.sent += len(part)
            self.ended.wait(PAUSE_S)
        sock.shutdown(socket.SHUT_WR)
        return digest.digest()

    def pass_on(self) -> None:
        """Return once PIECE more bytes have been sent."""
        goal = self.sent + PIECE
        wait_until(lambda: self.sent >= goal, "the stream flows")


@contextmanager
def flowing(lab: Lab, family: Family = 4, *, back: bool = False) -> Iterator[Flow]:
    """A stream from pod a to pod b, or back, during the body.

    At the end it has arrived unchanged, without a checksum error.
    """
    near, far = reversed(lab.nodes) if back else lab.nodes
    target = far.pod[family]
    flow = Flow()
    before = [checksum_errors(node.pod_ns) for node in lab.nodes]
    with far.pod_ns.socket(target, socket.SOCK_STREAM) as listener, ThreadPoolExecutor(2) as threads:
        listener.listen()
        receiver = threads.submit(digest_one, listener)
        address = listener.getsockname()[:2]
        with near.pod_ns.inside(lambda: socket.create_connection(address, PATIENCE_S)) as sock:
            # BBR, the default of some machines, sends at a few packets a second for a minute after one without answers.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            sender = threads.submit(flow.send, sock)
            try:
                flow.pass_on()
                yield flow
            finally:
                flow.ended.set()
            assert (sender.result(PATIENCE_S), flow.sent) == receiver.result(PATIENCE_S)
    assert [checksum_errors(node.pod_ns) for node in lab.nodes] == before
