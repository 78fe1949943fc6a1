"""sd_notify(3), against a socket that stands for the manager's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vxland.ops import notify as manager
from vxland.ops.notify import notify


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_fields_go_out_as_one_datagram(heard: socket.socket) -> None:
    """Names in capitals, one to a line."""
    notify(ready=1, status="forwarding, 2 leases")
    assert heard.recv(200) == b"READY=1\nSTATUS=forwarding, 2 leases"


def test_a_status_begins_no_assignment_of_its_own(heard: socket.socket) -> None:
    """It may quote a store, whose line breaks could tell the manager another main process."""
    notify(status="away: \nMAINPID=1\x1b")
    assert heard.recv(200) == rb"STATUS=away: \nMAINPID=1\x1b"


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """@ stands for the zero octet of an abstract name."""
    name = f"vxland-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify(stopping=1)
        assert sock.recv(200) == b"STOPPING=1"


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/at/all"])
def test_without_a_manager(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Nothing is raised where none is named, or none listens."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify(ready=1)
    manager.forget({"tap/flannel.1/0"})
    assert manager.wanted() == path.startswith("/")


def test_store_sends_the_descriptor(heard: socket.socket) -> None:
    """Each goes with its name, and is the same open file at the other end."""
    left, right = os.pipe()
    try:
        manager.store({"tap/flannel.1/0": right})
        message, fds, _, _ = socket.recv_fds(heard, 200, 2)
        assert message == b"FDSTORE=1\nFDNAME=tap/flannel.1/0\nFDPOLL=0"
        (theirs,) = fds
        os.write(theirs, b"x")
        os.close(theirs)
        assert os.read(left, 1) == b"x"
    finally:
        os.close(left)
        os.close(right)


def test_forget_waits_for_the_manager(heard: socket.socket) -> None:
    """It returns when the manager has come to the barrier, and closed its end of it, and not before."""
    done = threading.Event()

    def forget() -> None:
        manager.forget(["receive/flannel.1/1"])
        done.set()

    thread = threading.Thread(target=forget)
    thread.start()
    assert heard.recv(200) == b"FDSTOREREMOVE=1\nFDNAME=receive/flannel.1/1"
    message, fds, _, _ = socket.recv_fds(heard, 200, 2)
    assert message == b"BARRIER=1"
    assert not done.is_set()
    for fd in fds:
        os.close(fd)
    thread.join(10)
    assert done.is_set()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("30000000", "", 30.0), ("500000", "own", 0.5), ("30000000", "1", 0.0), ("", "", 0.0), ("soon", "", 0.0)],
)
def test_watchdog(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float) -> None:
    """Its period in seconds, if this process is the one that is watched."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert manager.watchdog_s() == seconds
