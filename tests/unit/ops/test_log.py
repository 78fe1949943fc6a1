"""The log as the process writes it: each event is limited, and all lines have one form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from vxland.model.log_quota import ROUTINE
from vxland.ops.library_log import LibraryLog
from vxland.ops.log import configure


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Leave the log as it was."""
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers[:]
    yield
    structlog.configure(**before[0])
    root.handlers[:] = before[1]


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the events on standard error."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_interface_that_flaps_does_not_fill_the_disk(capsys: pytest.CaptureFixture[str]) -> None:
    """Events without another limit wrote a line each time, as often as a local user wanted."""
    configure("json", "info")
    log = structlog.get_logger()
    for _ in range(200):
        log.info("underlay_interface_changed", device="flannel.1")
        log.warning("control_refused", uid=1000)
    events = [event["event"] for event in written(capsys)]
    assert {name: events.count(name) for name in set(events)} == {
        "underlay_interface_changed": ROUTINE,
        "control_refused": ROUTINE,
        "log_lines_left_out": 2,
    }


def test_a_flood_of_details_takes_no_warning_away(capsys: pytest.CaptureFixture[str]) -> None:
    """Each level of an event has its own limit."""
    configure("json", "debug")
    log = structlog.get_logger()
    for _ in range(ROUTINE + 5):
        log.debug("action_failed")
    log.warning("action_failed")
    assert written(capsys)[-1]["level"] == "warning"


def test_each_problem_of_a_configuration_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """The event that ends the process has no limit."""
    configure("json", "info")
    for _ in range(3 * ROUTINE):
        structlog.get_logger().error("fatal", error="wrong")
    assert len(written(capsys)) == 3 * ROUTINE


def broken(text: str) -> None:
    """Fail."""
    raise ValueError(text)


def test_a_traceback_is_bounded_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    """It may quote a store: it has no control characters, and keeps its end, which names the error."""
    configure("console", "info")
    try:
        broken("\x1b[2J" + "x" * 50_000)
    except ValueError:
        structlog.get_logger().exception("control_failed", command="peers")
    configure("json", "info")
    try:
        broken("y\n" * 15_000)
    except ValueError:
        structlog.get_logger().exception("control_failed", command="peers")
    console, _, rest = capsys.readouterr().err.rpartition("\n{")
    assert "\x1b[2J" not in console
    assert len(console) < 20_000
    assert len(json.loads("{" + rest)["exception"]) < 20_000


def test_libraries_log_events_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A log collector that reads JSON got plain text from asyncio."""
    configure("json", "info")
    configure("json", "info")
    assert sum(isinstance(each, LibraryLog) for each in logging.getLogger().handlers) == 1
    try:
        broken("it is")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    (event,) = written(capsys)
    assert (event["event"], event["level"], event["logger"]) == ("library_message", "error", "asyncio")
    assert event["message"] == "Task exception was never retrieved"
    assert event["exception"].endswith("ValueError: it is")
