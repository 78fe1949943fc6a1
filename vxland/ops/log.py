"""Logs are events with fixed fields, one line each on standard error: for people, or as JSON for machines.

docs/events.md has a row for each event, which a test sees to.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal, TypeAlias

import structlog

from vxland.text import printable

_MAX_LEN: Final = 2000  # of a field: a store, a peer or a pod may have written it

LogFormat: TypeAlias = Literal["console", "json"]


def is_json() -> bool:
    """Whether standard error is for machines."""
    return any(isinstance(each, structlog.processors.JSONRenderer) for each in structlog.get_config()["processors"])


def configure(form: LogFormat, level: str) -> None:
    """Send events of `level` and above to standard error, as `form`."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _fit,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _fit(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep control characters, line breaks and endless texts out of every field; a traceback comes after this."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value, _MAX_LEN)
        elif not isinstance(value, int | float | None) and key != "exc_info" and len(text := repr(value)) > _MAX_LEN:
            event[key] = printable(text, _MAX_LEN)
    return event
