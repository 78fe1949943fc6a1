"""Messages of libraries, mostly of asyncio about connections, as log events."""

from __future__ import annotations

import logging

import structlog

log = structlog.get_logger()


class LibraryLog(logging.Handler):
    """Logs each message as an event, with its traceback if it has one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one message."""
        trace = {"exc_info": record.exc_info} if record.exc_info else {}
        log.log(
            logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING,
            "library_message",
            logger=record.name,
            message=record.getMessage(),
            **trace,
        )
