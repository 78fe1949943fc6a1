"""The kernel's side of a large cluster: routes and permanent neighbours of flannel.1, and their changes as events."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterable

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import OVERLAY, LabNode
from vxland.model.errors import StartError
from vxland.model.lease import Mac

QUIET_S = 0.3
"""Time without an event before the kernel's tables are read: reading them costs the CPU that vxland is to have."""

_GROUPS = 4 | 0x40  # linux/rtnetlink.h: RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE
_NEWROUTE, _DELROUTE, _NEWNEIGH, _DELNEIGH = 24, 25, 28, 29  # linux/rtnetlink.h
_KIND = struct.Struct("=4xH")  # of a nlmsghdr
_STATE = struct.Struct("=24xH")  # of a ndmsg behind its nlmsghdr
_PERMANENT = 0x80  # linux/neighbour.h: NUD_PERMANENT
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket
_BUFFER = 1 << 26
_MESSAGE = 1 << 16


def programmed(lab: Lab, node: LabNode) -> dict[str, str]:
    """Return the MAC behind each subnet that flannel.1 routes, by its permanent neighbours; empty if there is none."""
    inside = ("ip", "-n", lab.namespace(node))
    macs = parse_neighbours(shell.attempt((*inside, "neigh", "show", "dev", OVERLAY, "nud", "permanent")).stdout)
    return parse_routes(shell.attempt((*inside, "route", "show", "dev", OVERLAY)).stdout, macs)


def parse_neighbours(text: str) -> dict[str, str]:
    """Return MACs by address from the output of `ip neigh`."""
    return {words[0]: words[2] for words in _lines(text) if words[1:2] == ["lladdr"]}


def parse_routes(text: str, macs: dict[str, str]) -> dict[str, str]:
    """Return the MAC of the next hop by subnet from the output of `ip route`."""
    return {words[0]: macs.get(words[2], "") for words in _lines(text) if words[1:2] == ["via"]}


def _lines(text: str) -> Iterable[list[str]]:
    return (line.split() for line in text.splitlines())


class KernelWatch:
    """Changes of routes and permanent neighbours on a node, from the creation of this object."""

    def __init__(self, lab: Lab, node: LabNode) -> None:
        self.changes = 0
        """Events so far that have been read."""
        self._socket = shell.inside(lab.namespace(node), _open)

    def wait(self, mac: Mac, timeout_s: float) -> None:
        """Return once a neighbour has this MAC. StartError if none gets it in time."""
        mac_bytes = mac.value.to_bytes(6, "big")  # unique, so that a search for the bytes replaces parsing
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            if mac_bytes in self._next(left):
                return
        raise StartError(
            f"a change of a peer's MAC to {mac} did not appear within {timeout_s:.0f} s", "see vxland's log"
        )

    def settled(self, agrees: Callable[[], bool], timeout_s: float) -> float | None:
        """Return the time of the last event once the kernel is quiet and `agrees`; None if that takes too long."""
        last = time.monotonic()
        end = last + timeout_s
        while time.monotonic() < end:
            if self._next(QUIET_S):
                last = time.monotonic()
            elif agrees():
                return last
        return None

    def drain(self) -> None:
        """Read the events that have arrived."""
        while self._next(0.0):
            pass

    def close(self) -> None:
        """Watch no longer."""
        self._socket.close()

    def _next(self, seconds: float) -> bytes:
        """Return the next event that counts; empty if there is none in this time."""
        end = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(end - time.monotonic(), 0.0))
            try:
                message = self._socket.recv(_MESSAGE)
            except (TimeoutError, BlockingIOError):
                return b""
            if counts(message):
                self.changes += 1
                return message


def counts(message: bytes) -> bool:
    """Return whether an event is a change of a route or of a permanent neighbour, and not ARP on the underlay."""
    (kind,) = _KIND.unpack_from(message)
    if kind == _NEWNEIGH:
        return bool(_STATE.unpack_from(message)[0] & _PERMANENT)
    return kind in {_NEWROUTE, _DELROUTE, _DELNEIGH}


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.bind((0, _GROUPS))
    return made
