"""The file of the API socket: the users that may connect, and its former owner."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from vxland.model.atomic_write import make_directories
from vxland.model.errors import StartError

GROUP = "vxland"
"""Group whose members may connect beside root, if it exists."""

_SO_PEERGROUPS = 59  # asm-generic/socket.h, not in the socket module
_BACKLOG = 32

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Credentials of a connected process; `groups` are all of its groups."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_credentials(fd: int) -> PeerCredentials:
    """Return those of the other end of a connected socket, as of its connect(2): unix(7)."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        further = b""
        with suppress(OSError):  # a kernel before 4.13, or too many groups
            further = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    return PeerCredentials(pid, uid, frozenset({gid, *(number for (number,) in struct.iter_unpack("I", further))}))


def may_control(who: PeerCredentials) -> bool:
    """Return whether it is root, the daemon's own user or a member of GROUP."""
    return who.uid in {0, os.geteuid()} or _group() in who.groups


def _group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


class SocketClaim:
    """A listening socket at `path` with mode 0660; makes its directory, and replaces the socket of a dead daemon.

    StartError: a living daemon answers there, another file is there, or the directory is not writable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        remedy = "make its directory writable, with room in it, or choose another control.socket"
        try:
            make_directories(path.parent)
            self.socket = self._bound()
        except OSError as exc:
            raise StartError(f"control.socket: {path} cannot be made: {exc.strerror}", remedy) from exc
        made = path.stat()
        self._inode = made.st_ino
        path.chmod(0o660)
        group = _group()
        if group is not None and group != made.st_gid:  # a sandbox may forbid chown altogether
            try:
                os.chown(path, -1, group)
            except PermissionError:  # neither root nor in the group
                log.warning("control_group_refused", group=GROUP, path=str(path))
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # a group of the host that this user namespace does not have
                    raise
        self.socket.listen(_BACKLOG)

    def close(self) -> None:
        """Close the socket, and remove its file unless another daemon owns it by now."""
        self.socket.close()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            try:
                sock.bind(str(self._path))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                self._remove_dead()
                sock.bind(str(self._path))
        except BaseException:
            sock.close()
            raise
        return sock

    def _remove_dead(self) -> None:
        if not stat.S_ISSOCK(self._path.lstat().st_mode):
            raise StartError(
                f"control.socket: {self._path} is no socket", "remove it, or choose another control.socket"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # EAGAIN, a full backlog, also means that it lives
            if probe.connect_ex(str(self._path)) != errno.ECONNREFUSED:
                cause = f"control.socket: {self._path} is in use: a second vxland on this node?"
                raise StartError(cause, "stop it, or choose another control.socket for one of them")
        self._path.unlink()
