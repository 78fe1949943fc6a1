"""The file of the API socket: its mode, its former owner, and obstacles."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vxland.model.errors import StartError
from vxland.ops.api_socket import SocketClaim, peer_credentials


def test_makes_the_directory_and_the_socket(tmp_path: Path) -> None:
    """The directories are 0755, the socket 0660; close() removes the socket and leaves the directories.

    With a umask of 077 the directory was 0700, and the group could not reach the socket.
    """
    path = tmp_path / "run" / "node" / "control.sock"
    before = os.umask(0o077)
    try:
        claim = SocketClaim(path)
    finally:
        os.umask(before)
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    claim.close()
    assert list(path.parent.iterdir()) == []


def test_replaces_the_socket_of_a_dead_daemon(tmp_path: Path) -> None:
    """A socket file without a listener is no obstacle."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = path.stat().st_ino, path.stat().st_ctime_ns
    claim = SocketClaim(path)
    assert (path.stat().st_ino, path.stat().st_ctime_ns) != before
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    claim.close()


def test_leaves_the_socket_of_a_living_daemon(tmp_path: Path) -> None:
    """The error names the other daemon, which still answers."""
    path = tmp_path / "control.sock"
    first = SocketClaim(path)
    with pytest.raises(StartError, match="in use: a second vxland on this node") as refusal:
        SocketClaim(path)
    assert "choose another control.socket" in refusal.value.remedy
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_leaves_another_file(tmp_path: Path) -> None:
    """A file that is no socket is not removed."""
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="is no socket"):
        SocketClaim(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("place", ["/proc/vxland/control.sock", "/dev/null/control.sock", "/proc/control.sock"])
def test_names_an_unwritable_directory(place: str) -> None:
    """The error has key, value and remedy."""
    with pytest.raises(StartError, match=f"control.socket: {place} cannot be made: .+; make its directory writable"):
        SocketClaim(Path(place))


def test_does_not_remove_the_socket_of_another(tmp_path: Path) -> None:
    """A daemon whose file another one has replaced leaves that one."""
    path = tmp_path / "control.sock"
    first = SocketClaim(path)
    path.rename(tmp_path / "away")
    second = SocketClaim(path)
    first.close()
    assert path.exists()
    second.close()


def test_knows_who_connected() -> None:
    """The kernel reports process, user and all groups of the other end."""
    here, there = socket.socketpair()
    with here, there:
        who = peer_credentials(here.fileno())
    assert (who.pid, who.uid) == (os.getpid(), os.geteuid())
    assert who.groups == {os.getegid(), *os.getgroups()}
