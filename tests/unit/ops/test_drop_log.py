"""The drop log reports each drop once, by direction and reason."""

from __future__ import annotations

import errno
import os

from structlog.testing import capture_logs

from vxland.ops.drop_log import DropLog


def test_only_new_drops_are_logged() -> None:
    """A report has the drops since the last one; without any there is no event."""
    totals = {"encap": {"bum": 2, "no_vtep": 0}, "decap": {"own_mac": 0}}
    drops = DropLog(lambda: totals, lambda: {"encap": 0, "decap": 0})
    with capture_logs() as events:
        drops.report()
        drops.report()
        totals["encap"]["bum"] = 5
        drops.report()
    assert events == [
        {"event": "frames_dropped", "log_level": "warning", "direction": "encap", "bum": 2},
        {"event": "frames_dropped", "log_level": "warning", "direction": "encap", "bum": 3},
    ]


def test_the_kernels_refusal_is_named() -> None:
    """If the kernel refused frames, the event has its error beside the count."""
    drops = DropLog(lambda: {"encap": {"send_failed": 1}}, lambda: {"encap": errno.EPERM})
    with capture_logs() as events:
        drops.report()
    assert events[0]["error"] == os.strerror(errno.EPERM)
