"""Lines of `vxlandctl status`."""

from __future__ import annotations

from typing import Any

import pytest

from vxland.ctl import show

ANSWER: dict[str, Any] = {
    "version": "0.1.0",
    "gear": "compiled",
    "pid": 7,
    "uptime_s": 3.0,
    "not_ready": "",
    "troubles": [],
    "process": {"user": "root", "capabilities": [], "no_new_privs": True, "seccomp": True},
    "registry": {"kind": "static", "leases": 1, "error": "", "for_s": None, "quarantined": {}},
    "firewall": {"wanted": False, "error": ""},
    "planes": [],
}
CPU = {"used_s": 812.4, "waited_s": 24.0, "limit": None, "throttled_s": 0.0, "throttled_periods": 0}


@pytest.mark.parametrize(
    ("cpu", "line"),
    [
        (CPU, "used 812 s, waited 24 s for a CPU; no limit"),
        (
            CPU | {"limit": 0.5, "throttled_s": 61.2, "throttled_periods": 900},
            "used 812 s, waited 24 s for a CPU; limited to 0.5 CPUs: throttled for 61 s, in 900 periods",
        ),
    ],
)
def test_cpu(cpu: dict[str, Any], line: str) -> None:
    """In Kubernetes TCP fell to a fifth beside busy neighbours, and nothing in vxland showed why."""
    assert f"  cpu        {line}" in show.status(ANSWER | {"cpu": cpu}).splitlines()


def test_an_older_daemon() -> None:
    """The status of a daemon that reports no CPU time has no such line."""
    assert "cpu" not in show.status(ANSWER)
