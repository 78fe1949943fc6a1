"""The file of the control socket: whose it is, who had it, and what stands in its way."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vxland.model.errors import StartError
from vxland.ops.api_socket import SocketClaim, peer_credentials


def test_makes_the_directory_and_the_socket(tmp_path: Path) -> None:
    """The directory is 0755, the socket 0660; both are there while it is open, the directory stays."""
    path = tmp_path / "run" / "control.sock"
    claim = SocketClaim(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    claim.close()
    assert list(path.parent.iterdir()) == []


def test_replaces_a_dead_daemons(tmp_path: Path) -> None:
    """A file that nobody listens on is no obstacle."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = path.stat().st_ino, path.stat().st_ctime_ns
    claim = SocketClaim(path)
    assert (path.stat().st_ino, path.stat().st_ctime_ns) != before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    claim.close()


def test_leaves_a_living_daemons(tmp_path: Path) -> None:
    """Where another answers, that is named, and it goes on answering."""
    path = tmp_path / "control.sock"
    first = SocketClaim(path)
    with pytest.raises(StartError, match="in use: a second vxland on this node") as refusal:
        SocketClaim(path)
    assert "choose another control.socket" in refusal.value.remedy
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_leaves_what_is_no_socket(tmp_path: Path) -> None:
    """A file that is something else is not removed."""
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="is no socket"):
        SocketClaim(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("place", ["/proc/vxland/control.sock", "/dev/null/control.sock", "/proc/control.sock"])
def test_names_a_place_that_cannot_be_written(place: str) -> None:
    """A directory that cannot be made or written is an error with key, value and remedy."""
    with pytest.raises(StartError, match=f"control.socket: {place} cannot be made: .+; make its directory writable"):
        SocketClaim(Path(place))


def test_does_not_remove_anothers(tmp_path: Path) -> None:
    """A daemon that lost its file to another leaves the other's alone."""
    path = tmp_path / "control.sock"
    first = SocketClaim(path)
    path.rename(tmp_path / "away")
    second = SocketClaim(path)
    first.close()
    assert path.exists()
    second.close()


def test_knows_who_connected() -> None:
    """The kernel tells process, user and all groups of the other end."""
    here, there = socket.socketpair()
    with here, there:
        who = peer_credentials(here.fileno())
    assert (who.pid, who.uid) == (os.getpid(), os.geteuid())
    assert who.groups == {os.getegid(), *os.getgroups()}
