"""A network namespace of the lab, and a wait for a condition."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.patience import PATIENCE_S
from vxland.lab import shell

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, hint: Callable[[], str] = str) -> T:
    """Return the result of `condition()` once it is true. AssertionError, with the hint, if it never is."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            msg = f"waited {PATIENCE_S:.0f} s in vain: {what}\n{hint()}"
            raise AssertionError(msg)
        time.sleep(0.02)
    return found


class Ns:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self) -> None:
        """Make it: loopback up, IPv6 addresses usable at once."""
        shell.run("ip", "netns", "add", self.name)
        for scope in ("all", "default"):
            shell.set_sysctl(self.name, f"ipv6.conf.{scope}.accept_dad", 0)
            shell.set_sysctl(self.name, f"ipv6.conf.{scope}.router_solicitations", 0)
        self.ip("link set lo up")

    def delete(self) -> None:
        """Remove it if it exists."""
        shell.attempt(("ip", "netns", "del", self.name))

    def ip(self, command: str) -> str:
        """Return the output of one `ip` command, given without the `ip`; StartError if it fails."""
        return shell.run("ip", "-n", self.name, *command.split())

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """Return the output of one `ip -j` command; the empty list for a device that does not exist."""
        done = shell.attempt(("ip", "-n", self.name, "-j", *command.split()))
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return [entry for entry in found if entry]

    def batch(self, *lines: str) -> None:
        """Run several `ip` commands."""
        shell.ip_batch(self.name, lines)

    def run(self, *argv: str) -> str:
        """Return the output of a command run inside; StartError if it fails."""
        return shell.run(*shell.exec_in(self.name, *argv))

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its result."""
        return shell.attempt(shell.exec_in(self.name, *argv))

    def inside(self, job: Callable[[], T]) -> T:
        """Run `job` in a thread that has entered the namespace; return its result."""
        return shell.inside(self.name, job)

    def socket(self, address: str, kind: socket.SocketKind = socket.SOCK_DGRAM, port: int = 0) -> socket.socket:
        """Return a bound socket of this namespace; it stays there whichever thread uses it."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.inside(lambda: socket.socket(family, kind))
        try:
            sock.settimeout(PATIENCE_S)
            sock.bind((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def links(self) -> set[str]:
        """Return the names of the devices."""
        return {link["ifname"] for link in self.ip_json("link show")}
