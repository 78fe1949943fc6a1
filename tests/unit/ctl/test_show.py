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
PLANE: dict[str, Any] = {
    "device": "flannel.1",
    "vni": 1,
    "port": 8472,
    "mac": "ce:5f:f6:73:cf:b9",
    "mtu": 1450,
    "networks": ["10.244.0.0/16"],
    "subnets": ["10.244.0.0/24"],
    "underlay": {
        "interface": "e0",
        "address": "192.0.2.1",
        "mtu": 1500,
        "narrower": {},
        "advertised": "192.0.2.1",
    },
    "source_check": "vtep",
    "workers": 2,
    "offloads": {},
    "offloads_off": {},
    "reconcile": {"passes": 1, "failed_reads": 0, "mended": {}, "failed": {}, "pending": 0},
    "probes": {"off": "probe.interval_s is 0"},
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


FILL = "entries: peers 2 of 16384, inner_v4 3 of 32768"
FAST_PATH: dict[str, Any] = {
    "on": True,
    "off": "",
    "superframes": True,
    "diverted": False,
    "entries": {"peers": 2, "inner_v4": 3},
    "entries_most": {"peers": 16384, "inner_v4": 32768},
}


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({}, ["on, superframes too", FILL]),
        ({"superframes": False}, ["on; the daemon sends superframes", FILL]),
        ({"diverted": True}, ["on, superframes too; a capture runs, so all frames go to the daemon", FILL]),
        ({"on": False, "off": "libbpf is not installed", "entries": {}}, ["off: libbpf is not installed"]),
    ],
)
def test_fast_path(found: dict[str, Any], lines: list[str]) -> None:
    """Each device shows whether programs carry its frames, with the fill of their maps, or why they do not."""
    said = show.status(ANSWER | {"planes": [PLANE | {"fast_path": FAST_PATH | found}]}).splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("  fast path  "))
    assert [line[13:] for line in said[at : at + len(lines)]] == lines
    assert said[at + len(lines)].startswith("  peers      ")


def test_an_older_daemon_has_no_fast_path() -> None:
    """The status of a daemon that knows no fast path has no such line."""
    assert "fast path" not in show.status(ANSWER | {"planes": [PLANE]})
