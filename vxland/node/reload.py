"""Reload of the configuration file into a running node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from vxland.config import Settings, clashes
from vxland.model.errors import ConfigError, InvalidConfigError
from vxland.model.lease import Delta
from vxland.node.lease_follower import LeaseFollower
from vxland.node.state import NodeState

log = structlog.get_logger()


class Reloader:
    """Reads the file at `path` again with `read` and applies it to `state`; no path: settings of a command line."""

    def __init__(
        self, path: Path | None, read: Callable[[Path], Settings], state: NodeState, follower: LeaseFollower
    ) -> None:
        self._path = path
        self._read = read
        self._state = state
        self._follower = follower

    async def reload(self) -> list[ConfigError]:
        """Apply the reloadable settings of the file. Problems: the file is refused, they are logged, nothing changed.

        When this returns, the new peers and sources are in the table.
        """
        try:
            settings = await self._settings()
        except InvalidConfigError as exc:
            for problem in exc.problems:
                log.error("reload_refused", key=problem.key, value=problem.value, remedy=problem.remedy)
            return exc.problems
        self._state.apply_settings(settings)
        for plane in self._state.planes:
            plane.set_source_check(settings.security.source_check)
            await plane.set_probe_interval(settings.probe.interval_s)
        leases = self._state.registry.reload(settings)
        if self._follower.known.is_set():
            await self._follower.apply(leases or Delta())
        log.info("reloaded", path=str(self._path))
        return []

    async def _settings(self) -> Settings:
        """Return the file's settings; InvalidConfigError if a running node cannot apply them."""
        if self._path is None:
            remedy = "restart vxland to change it: it has its settings from its command line"
            raise InvalidConfigError([ConfigError("configuration", "flags", remedy)])
        settings = await asyncio.to_thread(self._read, self._path)  # a second for 5,000 peers
        problems = self._state.settings.restart_needed(settings)
        for plane in self._state.planes:
            problems += clashes(settings, plane.underlay.address, plane.mac)
        if problems:
            raise InvalidConfigError(problems)
        return settings
