"""Watchers that need all frames in the daemon, not in programs: captures, and packet sockets on the TAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vxland.kernel.packet_sockets import is_watched


class Diversion:
    """`divert(True)` is called when there is a watcher, `divert(False)` when the last one has gone."""

    def __init__(self, divert: Callable[[bool], None]) -> None:
        self._divert = divert
        self._captures = 0
        self._watched = False

    @property
    def is_on(self) -> bool:
        """True while there is a watcher: a capture of vxlandctl, tcpdump, or another program."""
        return self._captures > 0 or self._watched

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Divert all frames meanwhile, for a capture."""
        self._captures += 1
        self.apply()
        try:
            yield
        finally:
            self._captures -= 1
            self.apply()

    def follow(self, tap: int) -> None:
        """Look for packet sockets on the TAP of this index: outgoing frames of programs do not show there. 0: none."""
        watched = tap != 0 and is_watched(tap)
        if watched != self._watched:
            self._watched = watched
            self.apply()

    def apply(self) -> None:
        """Set this at the programs, which may be others than before."""
        self._divert(self.is_on)
