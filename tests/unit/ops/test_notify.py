"""Notifications by sd_notify(3), with a socket in place of the manager's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from vxland.ops import notify as manager
from vxland.ops.notify import notify


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Open the manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_fields_go_out_as_one_datagram(received: socket.socket) -> None:
    """Each field is a line, with its name in capitals."""
    notify(ready=1, status="forwarding, 2 leases")
    assert received.recv(200) == b"READY=1\nSTATUS=forwarding, 2 leases"


def test_a_status_starts_no_other_assignment(received: socket.socket) -> None:
    """It may quote a store, whose line breaks could give the manager another main process."""
    notify(status="away: \nMAINPID=1\x1b")
    assert received.recv(200) == rb"STATUS=away: \nMAINPID=1\x1b"


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading @ means the zero byte of an abstract name."""
    name = f"vxland-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify(stopping=1)
        assert sock.recv(200) == b"STOPPING=1"


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/at/all"])
def test_without_a_manager(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Nothing is raised if none is named, or none listens."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify(ready=1)
    manager.forget({"tap/flannel.1/0"})
    assert manager.wanted() == path.startswith("/")


def test_store_sends_the_descriptor(received: socket.socket) -> None:
    """Each descriptor is sent with its name, and is the same open file at the other end."""
    left, right = os.pipe()
    try:
        manager.store({"tap/flannel.1/0": right})
        message, fds, _, _ = socket.recv_fds(received, 200, 2)
        assert message == b"FDSTORE=1\nFDNAME=tap/flannel.1/0\nFDPOLL=0"
        (theirs,) = fds
        os.write(theirs, b"x")
        os.close(theirs)
        assert os.read(left, 1) == b"x"
    finally:
        os.close(left)
        os.close(right)


def test_forget_waits_for_the_manager(received: socket.socket) -> None:
    """It returns after the manager has read the barrier and closed its descriptor, and not before."""
    done = threading.Event()

    def forget() -> None:
        manager.forget(["receive/flannel.1/1"])
        done.set()

    thread = threading.Thread(target=forget)
    thread.start()
    assert received.recv(200) == b"FDSTOREREMOVE=1\nFDNAME=receive/flannel.1/1"
    message, fds, _, _ = socket.recv_fds(received, 200, 2)
    assert message == b"BARRIER=1"
    assert not done.is_set()
    for fd in fds:
        os.close(fd)
    thread.join(PATIENCE_S)
    assert done.is_set()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("30000000", "", 30.0), ("500000", "own", 0.5), ("30000000", "1", 0.0), ("", "", 0.0), ("soon", "", 0.0)],
)
def test_watchdog(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float) -> None:
    """The period is in seconds, and 0 if another process is watched."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert manager.watchdog_s() == seconds
