"""Watches that detect a changed route or neighbour, or a lost datagram."""

from __future__ import annotations

import itertools
import subprocess
import threading
from typing import Final, Self

from tests.netns.interop.ns import Ns, wait_until
from tests.patience import PATIENCE_S
from vxland.lab import shell

_PAUSE_S: Final = 0.002
_numbers = itertools.count(1)


class Monitor:
    """All changes of routes, rules and neighbours on a namespace's overlay devices, as `ip monitor` prints them."""

    def __init__(self, ns: Ns) -> None:
        self._ns = ns
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            shell.exec_in(self._ns.name, "ip", "-o", "monitor", "route", "neigh"), stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.lines()  # returns once it listens
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def lines(self) -> list[str]:
        """Return all lines so far."""
        mark = f"blackhole 198.18.0.{next(_numbers) % 250 + 1}"

        def seen() -> bool:
            self._ns.batch(f"route add {mark}", f"route del {mark}")
            return any(mark in line for line in self._lines)  # events arrive in order

        wait_until(seen, f"ip monitor prints {mark}")
        return [
            line for line in self._lines if "dev flannel" in line and "NOARP" not in line
        ]  # the kernel itself adds multicast

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line.strip())


class Flow:
    """Datagrams between two namespaces during the body, one by one, each answered; at the end none was lost."""

    def __init__(self, near: Ns, near_address: str, far: Ns, far_address: str) -> None:
        self._near = near.socket(near_address)
        self._far = far.socket(far_address)
        self._near.settimeout(PATIENCE_S)
        self._stop = threading.Event()
        self._error = ""
        self.count = 0
        self._threads = [threading.Thread(target=job) for job in (self._ask, self._answer)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        wait_until(lambda: self.count > 3 or self._error, "the flow begins")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()
        if kind is None:
            assert not self._error, self._error
            assert self.count > 3

    def _ask(self) -> None:
        try:
            while not self._stop.wait(_PAUSE_S):
                question = str(self.count).encode()
                self._near.sendto(question, self._far.getsockname())
                if self._near.recv(64) != question:
                    self._error = f"a wrong answer to {self.count}"
                    break
                self.count += 1
        except OSError as exc:
            self._error = f"no answer to {self.count}: {exc!r}"
        finally:
            with self._far.dup() as end:  # ends the other thread whatever the tunnel's state
                end.sendto(b"end", self._far.getsockname())

    def _answer(self) -> None:
        while True:
            question, whence = self._far.recvfrom(64)
            if question == b"end":
                return
            self._far.sendto(question, whence)
