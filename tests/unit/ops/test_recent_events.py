"""The ring of the latest events, and what the log puts into it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from vxland.model import secrets
from vxland.ops import log
from vxland.ops.recent_events import RecentEvents


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the log, its ring and the known secrets as they were."""
    before = structlog.get_config()
    monkeypatch.setattr(log, "RECENT", RecentEvents())
    yield
    structlog.configure(**before)
    secrets._known.clear()


def events() -> list[dict[str, object]]:
    """Return what the ring has."""
    return [json.loads(line) for line in log.RECENT.lines()]


def test_the_ring_is_bounded() -> None:
    """By number and by size: the oldest events go first."""
    ring = RecentEvents(most=3, most_len=100)
    for number in range(10):
        ring.add({"event": f"e{number}"})
    assert [json.loads(line)["event"] for line in ring.lines()] == ["e7", "e8", "e9"]
    ring.add({"event": "x" * 60})
    ring.add({"event": "last"})
    assert [json.loads(line)["event"] for line in ring.lines()] == ["x" * 60, "last"]
    ring.add({"event": "y" * 200})
    assert ring.lines() == []


@pytest.mark.parametrize("form", ["console", "json"])
def test_events_of_either_format(form: log.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """They are kept as they are logged: of the wanted levels, with time and level, and without what was left out."""
    log.configure(form, "info")
    for _ in range(150):
        structlog.get_logger().info("leases_changed", leases=frozenset())
    structlog.get_logger().debug("hidden")
    kept = events()
    assert [event["event"] for event in kept].count("leases_changed") == 100
    assert {"timestamp", "level", "event"} <= set(kept[0])
    assert "hidden" not in [event["event"] for event in kept]
    assert len(capsys.readouterr().err.splitlines()) == len(kept)


def test_no_event_has_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """A store's answer, a list and a traceback quoted a password, and the log had it."""
    secrets.learn("hunter2")
    log.configure("json", "info")
    logger = structlog.get_logger()
    logger.warning("registry_trouble", what="login", reason="refused: hunter2", urls=["https://u:other@h"])
    try:
        raise ValueError("hunter2 and hunter2")  # noqa: TRY301
    except ValueError:
        logger.exception("control_failed", command="peers")
    logged = capsys.readouterr().err + json.dumps(events())
    assert "hunter2" not in logged
    assert "other" not in logged
    assert len(events()) == 2
