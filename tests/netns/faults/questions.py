"""Numbered datagrams between two namespaces, sent at a fixed rate, each answered."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final, Self

from tests.netns.interop.ns import Ns, wait_until

PAUSE_S: Final = 0.01
_QUIET_S: Final = 1.0  # after this silence, missing answers count as lost
_NUMBER_LEN: Final = 4
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_BUFFER: Final = 8 << 20


class Questions:
    """One request every 10 ms, of `length` bytes, from `near` to `far` and back."""

    def __init__(self, near: Ns, near_address: str, far: Ns, far_address: str, length: int = 64) -> None:
        self._near = near.socket(near_address)
        self._far = far.socket(far_address)
        for sock in (self._near, self._far):
            sock.settimeout(0.1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)  # queued answers arrive all at once
        self._length = length
        self._asked: list[float] = []
        self._answered: dict[int, float] = {}
        self._last = 0.0
        self._end_asking, self._end = threading.Event(), threading.Event()
        self._asker = threading.Thread(target=self._ask)
        self._others = [threading.Thread(target=job) for job in (self._hear, self._answer)]

    def __enter__(self) -> Self:
        for thread in (self._asker, *self._others):
            thread.start()
        try:
            self.wait_back(time.monotonic())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        self._end.set()
        for thread in self._others:
            thread.join()
        self._near.close()
        self._far.close()

    def wait_back(self, since: float) -> float:
        """Return the seconds from `since` until a request sent later was answered; waits for ten of them."""

        def back() -> float:
            later = [at for number, at in tuple(self._answered.items()) if self._asked[number] >= since]
            return min(later) - since if len(later) > 9 else 0.0

        return wait_until(back, "answers come again", lambda: f"{len(self._answered)} of {len(self._asked)} until now")

    def settle(self) -> None:
        """Send no more requests, and return once no more answers arrive."""
        self._end_asking.set()
        self._asker.join()
        self._last = time.monotonic()
        wait_until(lambda: time.monotonic() - self._last > _QUIET_S, "the last answer")

    def lost(self, since: float) -> tuple[int, int]:
        """Return the number of requests since then without answer, and of all; call settle() first."""
        numbers = [number for number, at in enumerate(self._asked) if at >= since]
        return sum(number not in self._answered for number in numbers), len(numbers)

    def slowest_s(self, since: float) -> float:
        """Return the time of the slowest answer since then."""
        return max((at - self._asked[n] for n, at in self._answered.items() if self._asked[n] >= since), default=0.0)

    def _ask(self) -> None:
        target = self._far.getsockname()
        while not self._end_asking.wait(PAUSE_S):
            number = len(self._asked)
            self._asked.append(time.monotonic())
            try:
                self._near.sendto(number.to_bytes(_NUMBER_LEN, "big").ljust(self._length, b"."), target)
            except OSError:  # also lost: the fault removed the pod's route
                continue

    def _hear(self) -> None:
        while not self._end.is_set():
            try:
                answer = self._near.recv(65_536)
            except OSError:  # no answer yet, or an ICMP error
                continue
            self._last = time.monotonic()
            self._answered.setdefault(int.from_bytes(answer[:_NUMBER_LEN], "big"), self._last)

    def _answer(self) -> None:
        while not self._end.is_set():
            try:
                question, whence = self._far.recvfrom(65_536)
                self._far.sendto(question, whence)
            except OSError:
                continue
