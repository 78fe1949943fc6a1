"""A stand-in for systemd: hears sd_notify messages, keeps descriptors, and hands them to what it starts next."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from .lab import wait_until

# As sd_listen_fds(3) has it: from 3 on, and for this process only, whose id exec keeps.
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
    """Keeps what is sent to its socket. `watchdog_s` is what it tells of a watchdog; it ends no one itself."""

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
        """Stop listening, and close what is kept."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._path))
        self._thread.join()
        self._socket.close()
        self.drop_all()

    @property
    def names(self) -> list[str]:
        """The names of what is kept."""
        return sorted(name for name, _ in self.kept)

    def keep(self, name: str, fd: int) -> None:
        """Keep a descriptor that no service sent; it is the manager's from now on."""
        self.kept.append((name, fd))

    def drop_all(self) -> None:
        """Close what is kept, as for a service that was stopped."""
        while self.kept:
            os.close(self.kept.pop()[1])

    def launcher(self) -> tuple[str, ...]:
        """What stands before a service's command line."""
        fds = ",".join(str(fd) for _, fd in self.kept)
        return (sys.executable, "-c", _LAUNCHER, fds, ":".join(name for name, _ in self.kept))

    def environment(self) -> dict[str, str]:
        """What a service finds in its environment."""
        watchdog = {"WATCHDOG_USEC": f"{self._watchdog_s * 1e6:.0f}"} if self._watchdog_s else {}
        return {"NOTIFY_SOCKET": str(self._path), **watchdog}

    def count(self, key: str, value: str = "1") -> int:
        """How many messages said so."""
        return sum(message.get(key) == value for message in self.heard)

    def wait_for(self, key: str, value: str = "1", more: int = 1) -> None:
        """Return once so many more messages have said so."""
        seen = self.count(key, value)
        wait_until(lambda: self.count(key, value) >= seen + more, f"{key}={value}", lambda: str(self.heard[-5:]))

    def _listen(self) -> None:
        while True:
            octets, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            if not octets:
                return
            message = dict(line.split("=", 1) for line in octets.decode().splitlines())
            name = message.get("FDNAME", "")
            if "FDSTORE" in message:
                self.kept += [(name, fd) for fd in fds]
            elif "FDSTOREREMOVE" in message:
                fds = [fd for kept, fd in self.kept if kept == name]
                self.kept = [(kept, fd) for kept, fd in self.kept if kept != name]
            if "FDSTORE" not in message:  # a barrier is over when its descriptor is closed
                for fd in fds:
                    os.close(fd)
            self.heard.append(message)
