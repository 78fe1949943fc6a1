"""flannel.1 is deleted, renamed, moved or replaced while vxland runs: the same process makes it again.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pinging import Pinging

from .asking import ask_json
from .conftest import running
from .lab import Lab
from .ns import wait_until
from .test_fast_path_life import programs
from .test_restart import pings, state
from .traffic import ping, send_tcp

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland in either gear, or with the fast path."""
    yield from running(Lab(tmp_path_factory.mktemp("recovery"), request.param))


def has_fast_path(lab: Lab) -> bool:
    """Return whether node a is to have the fast path."""
    return bool(lab.vxland.settings["datapath"]["fast_path"] == "auto")


def fast_path(lab: Lab) -> dict[str, Any]:
    """Return the state of node a's fast path."""
    found: dict[str, Any] = ask_json(lab.vxland, "status")["planes"][0]["fast_path"]
    return found


def not_ready(lab: Lab) -> str:
    """Return the reason why the node is not ready; empty if it is."""
    return str(ask_json(lab.vxland, "status")["not_ready"])


def wait_ready(lab: Lab) -> None:
    """Return once the node is ready again."""
    wait_until(lambda: not not_ready(lab), "ready", lab.vxland.said)


def frames(lab: Lab) -> list[int]:
    """Return the frames of each direction since start."""
    stats = ask_json(lab.vxland, "stats")
    return [stats[way]["frames"] for way in ("encap", "decap")]


def drops(lab: Lab) -> int:
    """Return the frames since start that the TAP refused."""
    return int(ask_json(lab.vxland, "stats")["decap"]["drops"]["tap_write_failed"])


@contextmanager
def taken_name(lab: Lab, kind: str) -> Iterator[None]:
    """A device of another kind in place of flannel.1; vxland may make a new TAP before the second command."""

    def taken() -> bool:
        lab.a.ns.attempt("ip", "link", "delete", "flannel.1")
        return lab.a.ns.attempt("ip", "link", "add", "flannel.1", "type", *kind.split()).returncode == 0

    wait_until(taken, f"flannel.1 is a {kind}")
    try:
        yield
    finally:
        lab.a.ns.ip("link delete flannel.1")


@pytest.fixture
def same_process(lab: Lab) -> Iterator[None]:
    """Assert that the process stays, and that state() and streams both ways are as before in the end."""
    pid, before = lab.vxland.pid, state(lab.a)
    yield
    wait_until(lambda: "flannel.1" in lab.a.ns.links() and state(lab.a) == before, "all as before", lab.vxland.said)
    wait_ready(lab)
    attached = {"flannel.1": 1, "e0": 1} if has_fast_path(lab) else {}
    wait_until(lambda: programs(lab.a.ns) == attached, "programs", lab.vxland.said)
    assert fast_path(lab)["on"] == has_fast_path(lab)
    assert lab.vxland.pid == pid
    ping(lab.a.pod_ns, lab.b.pod[4])
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 500_000)
    send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[4], 500_000)


@pytest.mark.usefixtures("same_process")
def test_a_deleted_device_is_made_again(lab: Lab, tmp_path: Path) -> None:
    """`ip link delete flannel.1` ended the daemon; its pods had no network until a service manager restarted it."""
    lost = len(lab.vxland.events("device_lost"))
    with pings(lab, tmp_path) as running:
        for number in range(1, 6):
            counted = frames(lab)
            lab.a.ns.ip("link delete flannel.1")
            for one in running:
                one.wait()
            wait_until(
                lambda number=number: len(lab.vxland.events("device_recreated")) >= lost + number,  # type: ignore[misc]  # a lambda has no types
                "device_recreated",
                lab.vxland.said,
            )
            assert all(now > before for now, before in zip(frames(lab), counted, strict=True))
    assert len(lab.vxland.events("device_lost")) == lost + 5


@pytest.mark.usefixtures("same_process")
def test_a_device_that_is_deleted_repeatedly(lab: Lab) -> None:
    """A loop deletes the device at every stage of its creation; the process stays, and recovers."""
    lost = len(lab.vxland.events("device_lost"))

    def deleted() -> bool:
        lab.a.ns.attempt("ip", "link", "delete", "flannel.1")
        return len(lab.vxland.events("device_lost")) >= lost + 6

    wait_until(deleted, "six losses", lab.vxland.said)


@pytest.mark.usefixtures("same_process")
def test_a_device_that_is_renamed_or_moved_is_made_again(lab: Lab) -> None:
    """The TAP had another name or namespace and vxland was not ready until a restart; nothing is left behind."""
    elsewhere = lab.a.pod_ns
    lab.a.ns.batch("link set flannel.1 down", "link set flannel.1 name stolen")
    wait_until(lambda: lab.a.ns.links() >= {"flannel.1"} and "stolen" not in lab.a.ns.links(), "back", lab.vxland.said)
    wait_ready(lab)
    ping(lab.a.pod_ns, lab.b.pod[4])
    lab.a.ns.ip(f"link set flannel.1 netns {elsewhere.name}")
    wait_until(
        lambda: "flannel.1" in lab.a.ns.links() and "flannel.1" not in elsewhere.links(), "back again", lab.vxland.said
    )
    wait_ready(lab)


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("kind", ["bridge", "veth peer name other", "vxlan id 1 dev e0 dstport 8473"])
def test_the_name_is_taken(lab: Lab, kind: str) -> None:
    """A foreign device has the name: the node reports it once, and continues when it is gone.

    Programs were attached to the foreign device, and delivered what came for the TAP to it.
    """
    blocked = len(lab.vxland.events("device_blocked"))
    reason = "flannel.1 exists and is no TAP of ours; stop what made it (flanneld?), then 'ip link delete flannel.1'"
    with taken_name(lab, kind), lab.b.pod_ns.socket(lab.b.pod[4]) as far:
        wait_until(lambda: not_ready(lab).startswith(reason), reason, lambda: not_ready(lab) + lab.vxland.said())
        if has_fast_path(lab):
            lab.vxland.hang_up("reloaded")  # the fast path compares the devices
            wait_until(lambda: fast_path(lab)["off"].startswith(reason), "the fast path is off", lab.vxland.said)
            assert programs(lab.a.ns) == {"e0": 1}
        before = drops(lab)
        far.sendto(b"lost", (lab.a.pod[4], 9))
        wait_until(lambda: drops(lab) > before, "what is lost is counted", lab.vxland.said)
    assert len(lab.vxland.events("device_blocked")) == blocked + 1


def test_a_new_device_loses_no_frame(lab: Lab, tmp_path: Path) -> None:
    """At each takeover the peers' first frames came before the TAP was up: `tap_write_failed`."""
    assert lab.vxland.stop() == 0
    lab.vxland.settings["overlay"]["mac"] = lab.a.mac()
    lab.a.ns.ip("link delete flannel.1")
    pinging = Pinging(lab.b.pod_ns.name, lab.a.pod[4], tmp_path / "flood", 0.002)
    try:
        lab.vxland.start()
        pinging.wait()
        assert drops(lab) == 0
    finally:
        pinging.stop()
