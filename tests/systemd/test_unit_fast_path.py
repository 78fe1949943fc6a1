"""The fast path in the shipped unit's sandbox; runs after test_service.py, which has it off.

node a   flannel.1 10.244.0.0 = programs = e0 192.168.111.128 ===== .129 e0 = programs = flannel.1 10.244.1.0   node b
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.systemd.node import Service, wait_until
from tests.systemd.test_service import Pair, ping, traffic


@pytest.fixture(scope="module")
def carried(services: Pair) -> Iterator[Pair]:
    """Both services, started without `datapath.fast_path`, which is `auto` by default; with `off` afterwards."""
    for service in services:
        del service.settings["datapath"]["fast_path"]
        service.write()
        service.systemctl("restart")
    try:
        for service in services:
            wait_until(partial(is_on, service), "the fast path is on", service.log)
        yield services
    finally:
        for service in services:
            service.settings["datapath"]["fast_path"] = "off"
            service.write()
            service.systemctl("restart")


def is_on(service: Service) -> bool:
    """Return whether `vxlandctl status` says so."""
    answer = json.loads(service.node.run("vxlandctl", "status", "--json"))
    return bool(answer["planes"][0]["fast_path"]["on"])


def test_it_is_on(carried: Pair) -> None:
    """The unit's capabilities and system calls are enough, and programs carry pings both ways."""

    def frames(service: Service) -> list[int]:
        found = json.loads(service.node.run("vxlandctl", "stats", "--json"))["fast_path"]
        return [found[way]["frames"] for way in ("encap", "decap")]

    a, b = carried
    before = [*frames(a), *frames(b)]
    ping(a.node, b.node.overlay)
    after = [*frames(a), *frames(b)]
    assert all(now >= then + 5 for then, now in zip(before, after, strict=True)), (before, after)


@pytest.mark.parametrize("number", [0, 1], ids=["sender", "receiver"])
def test_restart_under_traffic(carried: Pair, number: int, log: Path) -> None:
    """No ping is lost, and none waits for the process; TCP continues."""
    service = carried[number]
    pid = service.pid
    with traffic(carried, log, "fast path: systemctl restart") as pinging:
        service.systemctl("restart")
    assert service.pid != pid
    assert pinging.lost() == []
    wait_until(partial(is_on, service), "the fast path is on again", service.log)


@pytest.mark.parametrize("number", [0, 1], ids=["sender", "receiver"])
def test_kill_under_traffic(carried: Pair, number: int, log: Path) -> None:
    """A killed process took at most a burst with it; programs lose nothing."""
    service = carried[number]
    pid = service.pid
    with traffic(carried, log, "fast path: kill -9") as pinging:
        service.kill(signal.SIGKILL)
        service.wait_restarted(pid)
    assert pinging.lost() == []
    wait_until(partial(is_on, service), "the fast path is on again", service.log)


def test_stop_and_start_under_traffic(carried: Pair, log: Path) -> None:
    """Without vxland, which lost every ping of that time, programs go on."""
    service = carried[0]
    with traffic(carried, log, "fast path: systemctl stop, then start") as pinging:
        service.systemctl("stop")
        ping(service.node, carried[1].node.overlay)
        service.systemctl("start")
    assert pinging.lost() == []


def test_a_process_that_hangs_under_traffic(carried: Pair, log: Path) -> None:
    """A stopped process held all frames until the watchdog ended it."""
    service = carried[1]
    with traffic(carried, log, "fast path: SIGSTOP") as pinging:
        service.kill(signal.SIGSTOP)
        ping(carried[0].node, service.node.overlay)
        service.kill(signal.SIGCONT)
    assert pinging.lost() == []
