"""Log of dropped frames: at most one event per direction and period, for any number of drops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import structlog

PERIOD_S = 10.0

log = structlog.get_logger()

Totals = Mapping[str, Mapping[str, int]]
"""Drops since start: direction -> reason -> count."""


class DropLog:
    """Logs new drops. `errnos` returns the kernel's last error of each direction."""

    def __init__(self, totals: Callable[[], Totals], errnos: Callable[[], Mapping[str, int]]) -> None:
        self._totals = totals
        self._errnos = errnos
        self._logged: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Report every PERIOD_S until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(PERIOD_S)
                self.report()
        finally:
            self.report()

    def report(self) -> None:
        """Log the drops since the last report, by direction and reason; nothing without any."""
        errnos = self._errnos()
        for direction, reasons in self._totals().items():
            new = {why: n - self._logged.get((direction, why), 0) for why, n in reasons.items()}
            self._logged |= {(direction, why): n for why, n in reasons.items()}
            counts = {why: n for why, n in new.items() if n}
            if counts:
                refused = any(why.endswith("_failed") for why in counts)
                why = {"error": os.strerror(errnos[direction])} if refused else {}
                log.warning("frames_dropped", direction=direction, **counts, **why)
