"""A fake systemd: receives sd_notify messages, stores descriptors, and passes them to the next service it starts."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from .ns import wait_until

# As in sd_listen_fds(3): from 3 on, and only for this process, whose id exec keeps.
_LAUNCHER: Final = """\
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 200) for fd in sys.argv[1].split(",") if fd]
os.closerange(3, 200)
for place, fd in enumerate(given, 3):
    os.dup2(fd, place)
os.closerange(200, 200 + len(given))
if given:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": sys.argv[2]}
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """Stores what is sent to its socket. `watchdog_s` is announced to services; the manager ends none itself."""

    def __init__(self, directory: Path, watchdog_s: float = 0.0) -> None:
        self.kept: list[tuple[str, int]] = []
        self.heard: list[dict[str, str]] = []
        self._watchdog_s = watchdog_s
        self._path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and close the stored descriptors."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._path))
        self._thread.join()
        self._socket.close()
        self.drop_all()

    @property
    def names(self) -> list[str]:
        """Return the names of the stored descriptors."""
        return sorted(name for name, _ in self.kept)

    def keep(self, name: str, fd: int) -> None:
        """Store a descriptor that no service sent; the manager then owns it."""
        self.kept.append((name, fd))

    def drop_all(self) -> None:
        """Close the stored descriptors, as for a service that was stopped."""
        while self.kept:
            os.close(self.kept.pop()[1])

    def launcher(self) -> tuple[str, ...]:
        """Return the words before a service's command line."""
        fds = ",".join(str(fd) for _, fd in self.kept)
        return (sys.executable, "-c", _LAUNCHER, fds, ":".join(name for name, _ in self.kept))

    def environment(self) -> dict[str, str]:
        """Return a service's additional environment."""
        watchdog = {"WATCHDOG_USEC": f"{self._watchdog_s * 1e6:.0f}"} if self._watchdog_s else {}
        return {"NOTIFY_SOCKET": str(self._path), **watchdog}

    def count(self, key: str, value: str = "1") -> int:
        """Return the number of messages with this assignment."""
        return sum(message.get(key) == value for message in self.heard)

    def wait_for(self, key: str, value: str = "1", more: int = 1) -> None:
        """Return once `more` further messages have this assignment."""
        seen = self.count(key, value)
        wait_until(lambda: self.count(key, value) >= seen + more, f"{key}={value}", lambda: str(self.heard[-5:]))

    def _listen(self) -> None:
        while True:
            message_bytes, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            if not message_bytes:
                return
            message = dict(line.split("=", 1) for line in message_bytes.decode().splitlines())
            name = message.get("FDNAME", "")
            if "FDSTORE" in message:
                self.kept += [(name, fd) for fd in fds]
            elif "FDSTOREREMOVE" in message:
                fds = [fd for kept, fd in self.kept if kept == name]
                self.kept = [(kept, fd) for kept, fd in self.kept if kept != name]
            if "FDSTORE" not in message:  # a barrier ends when its descriptor is closed
                for fd in fds:
                    os.close(fd)
            self.heard.append(message)
