"""A ping that runs during restarts, and counts lost replies."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.patience import PATIENCE_S
from vxland.lab import shell

_REPLY = re.compile(r"bytes from .* icmp_seq=(\d+) .* time=([\d.]+) ms")


class Pinging:
    """An echo request from a namespace to `target` every `interval_s`, until stop()."""

    def __init__(self, namespace: str, target: str, log: Path, interval_s: float = 0.05) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                shell.exec_in(namespace, "ping", "-n", "-i", str(interval_s), "-W", "1", target), stdout=out, stderr=out
            )

    def __enter__(self) -> Self:
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, more: int = 3) -> None:
        """Return once `more` further replies have arrived."""
        wanted = len(self.replies()) + more
        end = time.monotonic() + PATIENCE_S
        while len(self.replies()) < wanted:
            assert time.monotonic() < end, f"no replies:\n{self._log.read_text()[-2000:]}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def replies(self) -> dict[int, float]:
        """Return the time of each reply so far, in ms, by the request's number."""
        text = self._log.read_text(errors="replace")
        return {int(number): float(took) for number, took in _REPLY.findall(text)}

    def lost(self) -> list[int]:
        """Return the requests without a reply, up to the last that has one."""
        replies = self.replies()
        return sorted(set(range(1, max(replies) + 1)) - set(replies))
