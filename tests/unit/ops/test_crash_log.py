"""Uncaught exceptions under `--log-format json`: a collector that reads JSON got plain tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vxland.ops import crash_log
from vxland.ops.log import configure

ROOT = Path(__file__).parents[3]
BROKEN = """
import sys, threading
from vxland.ops.log import configure
configure(sys.argv[1], "info")

def broken():
    raise ValueError("it is\\nbroken")

class Finalized:
    def __del__(self):
        broken()

thread = threading.Thread(target=broken, name="worker 1")
thread.start()
thread.join()
Finalized()
broken()
"""


def failed(form: str) -> str:
    """Return the standard error of a process in which a thread, a finalizer and the main program fail."""
    program = [sys.executable, "-c", BROKEN, form]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_each_is_one_json_line() -> None:
    """Every line of standard error is an event with its error and traceback."""
    events: list[dict[str, Any]] = [json.loads(line) for line in failed("json").splitlines()]
    assert [event["event"] for event in events] == ["thread_failed", "exception_ignored", "fatal"]
    assert {event["level"] for event in events} == {"error"}
    assert {event["error"] for event in events} == {r"ValueError: it is\nbroken"}
    assert all(event["exception"].startswith("Traceback (most recent call last):") for event in events)
    assert events[0]["thread"] == "worker 1"
    assert "Finalized.__del__" in events[1]["place"]


def test_the_console_has_tracebacks() -> None:
    """People read those."""
    assert failed("console").count("Traceback (most recent call last):") == 3


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_hooks_follow_the_format(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last configure() counts."""
    monkeypatch.setattr(sys, "excepthook", None)
    try:
        configure("json", "info")
        configure(form, "info")  # type: ignore[arg-type]  # one of the two forms
        assert (sys.excepthook is sys.__excepthook__) == (form == "console")
    finally:
        crash_log.uninstall()
