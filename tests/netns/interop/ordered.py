"""Numbered datagrams of many flows between two pods, in sizes that take different routes, and which came too late.

A sender keeps at most WINDOW datagrams under way, so that no queue is ever full. It sends each burst of one flow
without a pause, and on one CPU: the kernel keeps the order of packets only there. Datagrams in fragments are in an
order of their own, since fragments show no ports: every hash, a kernel device's as well, sends them elsewhere. So are
those of trains that are cut below 256 bytes. Nobody but a daemon carries either, so they wait while there is none.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.patience import PATIENCE_S

from .lab import Family, Node
from .ns import wait_until

FLOWS: Final = 64
BURST: Final = 8
WINDOW: Final = 256
LOST_S: Final = 0.05
"""Seconds without any datagram after which those under way are taken for lost."""

PLAIN, FRAGMENTED, FINE = "plain", "fragmented", "fine"
KINDS: Final = (PLAIN, FRAGMENTED, FINE)

_UDP_SEGMENT, _SO_RCVBUFFORCE = 103, 33  # linux/udp.h, asm-generic/socket.h
_NUMBER = struct.Struct("=HQ")
_PAUSE_S: Final = 0.6
"""Longest time between trains of a flow, and between fragments of all: they hold flows at the daemon for 0.1 s."""
_SIZES: Final = (32, 700, 1402, 1402)
_FRAGMENTED: Final = (3000, 9000)
_TRAINS: Final = ((PLAIN, 1200, 20), (PLAIN, 300, 5), (FINE, 100, 12))
"""Kind, size and number of datagrams in one send."""


class Sequence:
    """Datagrams from one pod to another while running()."""

    def __init__(self, near: Node, far: Node, family: Family) -> None:
        self.name = f"{near.letter} to {far.letter}"
        self.received: Counter[str] = Counter()
        """Datagrams by kind."""
        self.late: Counter[str] = Counter()
        """Those that a later one of their flow has overtaken."""
        self._addresses = (near.pod[family], far.pod[family])
        self._near, self._far = near, far
        self._sent = 0
        self._settled = 0  # received, or taken for lost
        self._highest = [-1] * (len(KINDS) * FLOWS)
        self._moved = threading.Condition()
        self._ended = threading.Event()

    def wait(self, more: int = 2000) -> None:
        """Return once `more` further datagrams have arrived."""
        goal = self.received.total() + more
        wait_until(lambda: self.received.total() >= goal, f"datagrams arrive from {self.name}")

    @contextmanager
    def running(self, cpu: int) -> Iterator[None]:
        """Send and receive during the body; the sender runs on this CPU."""
        source, target = self._addresses
        with ExitStack() as stack:
            receiver = stack.enter_context(self._far.pod_ns.socket(target))
            receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
            receiver.settimeout(LOST_S)
            senders = [stack.enter_context(self._near.pod_ns.socket(source)) for _ in range(FLOWS)]
            for sender in senders:
                sender.connect(receiver.getsockname())
            threads = [
                threading.Thread(target=self._receive, args=(receiver,)),
                threading.Thread(target=self._send, args=(senders, cpu)),
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                with self._moved:
                    self._ended.set()
                    self._moved.notify()
                for thread in threads:
                    thread.join(PATIENCE_S)

    def _send(self, senders: list[socket.socket], cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        chance = random.Random(cpu)  # noqa: S311  (repeatable, not secret)
        numbers = [0] * len(self._highest)
        trains_at, fragments_at = [0.0] * FLOWS, 0.0
        while not self._ended.is_set():
            with self._moved:
                self._moved.wait_for(lambda: self._sent - self._settled < WINDOW or self._ended.is_set())
            flow, now = chance.choice((chance.randrange(FLOWS), chance.randrange(4))), time.monotonic()  # four are busy
            for place in range(BURST):
                kind, size, count = PLAIN, chance.choice(_SIZES), 1
                if place == BURST // 2 and now > trains_at[flow]:
                    trains_at[flow] = now + chance.uniform(0, _PAUSE_S)
                    kind, size, count = chance.choice(_TRAINS)
                elif place == BURST // 2 and now > fragments_at:
                    fragments_at = now + chance.uniform(0, _PAUSE_S)
                    kind, size = FRAGMENTED, chance.choice(_FRAGMENTED)
                lane = KINDS.index(kind) * FLOWS + flow
                first = numbers[lane]
                numbers[lane] += count
                self._sent += count
                pieces = [_NUMBER.pack(lane, number).ljust(size, b".") for number in range(first, first + count)]
                control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))] if count > 1 else []
                senders[flow].sendmsg(pieces, control)

    def _receive(self, receiver: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                lane, number = _NUMBER.unpack_from(receiver.recv(1 << 16))
            except TimeoutError:
                self._settle(self._sent)
                continue
            kind = KINDS[lane // FLOWS]
            self.received[kind] += 1
            if number < self._highest[lane]:
                self.late[kind] += 1
            else:
                self._highest[lane] = number
            self._settled += 1
            if self._settled % 32 == 0:
                self._settle(self._settled)

    def _settle(self, count: int) -> None:
        with self._moved:
            self._settled = count
            self._moved.notify()
