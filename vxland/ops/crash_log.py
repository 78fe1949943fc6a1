"""Uncaught exceptions as events, for logs that programs read: a traceback on standard error is no JSON.

Python reports an exception that nobody catches by one of three hooks: of the main thread, of any other thread, or of a
place where none can be raised, such as a finalizer.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType

import structlog

log = structlog.get_logger()


def install() -> None:
    """Log uncaught exceptions of this process as events."""
    sys.excepthook = _main_failed
    threading.excepthook = _thread_failed
    sys.unraisablehook = _ignored


def uninstall() -> None:
    """Leave uncaught exceptions to Python, which prints tracebacks."""
    sys.excepthook = sys.__excepthook__
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__


def _main_failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, Exception):  # such as KeyboardInterrupt
        sys.__excepthook__(kind, error, trace)
        return
    exception = {"exc_info": (kind, error, trace)}
    log.error("fatal", error=_text(kind, error), **exception)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = "" if args.thread is None else args.thread.name
    exception = {"exc_info": (args.exc_type, args.exc_value, args.exc_traceback)}
    log.error("thread_failed", thread=name, error=_text(args.exc_type, args.exc_value), **exception)


def _ignored(args: sys.UnraisableHookArgs) -> None:
    exception = {"exc_info": (args.exc_type, args.exc_value, args.exc_traceback)}
    place = args.err_msg or "Exception ignored in"
    log.error(
        "exception_ignored", place=f"{place}: {args.object!r}", error=_text(args.exc_type, args.exc_value), **exception
    )


def _text(kind: type[BaseException], error: BaseException | None) -> str:
    return kind.__name__ if error is None else f"{kind.__name__}: {error}"
