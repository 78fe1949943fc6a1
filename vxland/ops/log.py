"""Log events with fixed fields, one line each on standard error: for people, or as JSON for machines.

docs/events.md has a row for each event, and a test checks that. Stores, peers, pods, local users and other programs
cause most of them. So each event is limited here, also if its module has a limit of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Final, Literal, TypeAlias

import structlog

from vxland.model.log_quota import ROUTINE, LogQuota
from vxland.model.secrets import masked
from vxland.model.text import printable
from vxland.ops import crash_log
from vxland.ops.library_log import LibraryLog
from vxland.ops.recent_events import RecentEvents

_MAX_LEN: Final = 2000  # of a field: a store, a peer or a pod may have written it
_TRACEBACK_LEN: Final = 16_000  # characters of a traceback that are kept: its end, which names the error
_UNLIMITED: Final = {"fatal", "log_lines_left_out", "reloaded", "reload_refused"}
"""The first ends the process; LogQuota limits the second; the last two answer an authorized reload."""

RECENT: Final = RecentEvents()
"""The latest events that were logged, of any format."""

LogFormat: TypeAlias = Literal["console", "json"]


def is_json() -> bool:
    """Return whether standard error is JSON."""
    return any(isinstance(each, structlog.processors.JSONRenderer) for each in structlog.get_config()["processors"])


def configure(form: LogFormat, level: str) -> None:
    """Send events of `level` and above to standard error, as `form`."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[
            _Limit(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _fit,
            structlog.processors.format_exc_info,
            _fit_traceback,
            _keep,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if form == "json":
        crash_log.install()
    else:
        crash_log.uninstall()
    root = logging.getLogger()
    root.handlers[:] = [
        *(each for each in root.handlers if not isinstance(each, LibraryLog)),
        LibraryLog(logging.WARNING),
    ]


class _Limit:
    """Drops events beyond ROUTINE a minute; each event and level has its own LogQuota."""

    def __init__(self) -> None:
        self._quotas: dict[tuple[str, str], LogQuota] = {}
        self._lock = threading.Lock()

    def __call__(
        self, _: structlog.typing.WrappedLogger, level: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Return the event, or raise DropEvent."""
        name = event["event"]
        if name not in _UNLIMITED:
            with self._lock:
                quota = self._quotas.setdefault((name, level), LogQuota(name, ROUTINE))
                if not quota.allows():
                    raise structlog.DropEvent
        return event


def _fit_traceback(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Keep the lines of a traceback without other control characters, and the end of a long one."""
    if isinstance(text := event.get("exception"), str):
        lines = masked(text)[-_TRACEBACK_LEN:].split("\n")
        event["exception"] = "\n".join(printable(line, _MAX_LEN) for line in lines)
    return event


def _keep(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep a copy of an event as it is logged."""
    RECENT.add(event)
    return event


def _fit(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Remove secrets, control characters and line breaks from every field, and shorten it; a traceback comes later."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(masked(value), _MAX_LEN)
        elif not isinstance(value, int | float | None) and key != "exc_info":
            text = masked(whole := repr(value))
            if text != whole or len(text) > _MAX_LEN:
                event[key] = printable(text, _MAX_LEN)
    return event
