"""Underlay sockets that another process made, for a vxland whose network namespace has no underlay: docs/rootless.md.

A socket keeps the network namespace that it was made in. So a vxland inside a user namespace can hold sockets of the
host: the program that starts it passes them as sd_listen_fds(3) says, all under one name. Those on the VXLAN port
receive, one for each worker; the others send.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from vxland.config.values import MAX_WORKERS
from vxland.forwarding.io.fdstore import Missed
from vxland.model.errors import ConfigError, InvalidConfigError
from vxland.model.lease import Address

NAME: Final = "underlay"
"""The name of these sockets: FileDescriptorName= of a socket unit."""

MOST_SENDERS: Final = 64  # as underlay.source_ports
_KEY: Final = "underlay.sockets"
_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_UDP: Final = (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
_TCP: Final = (socket.SOCK_STREAM, socket.IPPROTO_TCP)
_SHOWN: Final = 60  # characters of a descriptor's name


@dataclass(frozen=True, slots=True)
class UnderlayPort:
    """The VTEP address of a plane, and the port that it receives on."""

    address: Address
    number: int

    @property
    def unit_line(self) -> str:
        """The line of a socket unit that makes its receiving socket."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"ListenDatagram={host}:{self.number}"


@dataclass(slots=True)
class UnderlaySockets:
    """The descriptors of one plane's sockets."""

    receivers: list[int] = field(default_factory=list)
    senders: list[int] = field(default_factory=list)


def sort_sockets(
    passed: Sequence[tuple[str, int]], ports: Sequence[UnderlayPort], missed: Missed | None
) -> list[UnderlaySockets]:
    """Return the sockets of each port, of which no two have one IP version. The descriptors stay the caller's.

    `missed` is the reason why this process does not have them all. InvalidConfigError names each descriptor that
    cannot be used, and each socket that is missing, with the remedy.
    """
    if missed is not None:
        raise InvalidConfigError([ConfigError(_KEY, missed.reason, missed.remedy)])
    found = [UnderlaySockets() for _ in ports]
    problems: list[ConfigError] = []
    seen: dict[tuple[int, int], int] = {}
    for name, fd in passed:
        at, remedy = _place(name, fd, ports)
        facts = os.fstat(fd)
        first = seen.setdefault((facts.st_dev, facts.st_ino), fd)
        if not remedy and first != fd:
            remedy = f"pass each socket once: this is descriptor {first} again, whose flows two workers would share"
        if remedy:
            shown = ascii(name)[1:-1][:_SHOWN] or "no name"
            problems.append(ConfigError(_KEY, f"{shown} (descriptor {fd}), {describe(fd)}", remedy))
        elif _port(fd) == ports[at].number:
            found[at].receivers.append(fd)
        else:
            found[at].senders.append(fd)
    for sockets, port in zip(found, ports, strict=True):
        problems += _lacking(sockets, port)
    if problems:
        raise InvalidConfigError(problems)
    return found


def _port(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int(sock.getsockname()[1])


def describe(fd: int) -> str:
    """Return what a descriptor is, for people: the kind of socket, and its addresses."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return "no socket"
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.family not in _FAMILY.values():
            return "a UNIX socket" if sock.family == socket.AF_UNIX else f"a socket of address family {sock.family:d}"
        own = sock.getsockname()[:2]
        where = f"on {own[0]} port {own[1]}" if own[1] else "not bound to a port"
        peer = _peer(sock)
        connected = f", connected to {peer[0]} port {peer[1]}" if peer else ""
        return f"{_kind(sock)} socket {where}{connected}"


def _kind(sock: socket.socket) -> str:
    if (sock.type, sock.proto) == _UDP:
        return "a UDP" if sock.family == socket.AF_INET else "an IPv6 UDP"
    if (sock.type, sock.proto) == _TCP:
        return "a TCP" if sock.family == socket.AF_INET else "an IPv6 TCP"
    return f"a type {sock.type:d}, protocol {sock.proto:d}"


def _peer(sock: socket.socket) -> tuple[str, int] | None:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return None
    return host, port


def _place(name: str, fd: int, ports: Sequence[UnderlayPort]) -> tuple[int, str]:
    """Return the place of the port that a socket belongs to, and why it cannot be used, as a remedy; "" if it can."""
    some = ports[0]
    if name != NAME:
        return 0, f"pass it under the name {NAME} (FileDescriptorName={NAME} in the socket unit), or do not pass it"
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return 0, f"pass UDP sockets alone under this name: {some.unit_line} in the socket unit makes one"
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.family not in _FAMILY.values() or (sock.type, sock.proto) != _UDP:
            return 0, f"pass a UDP socket instead: {some.unit_line} in the socket unit makes one"
        fitting = (at for at, port in enumerate(ports) if _FAMILY[port.address.version] == sock.family)
        if (at := next(fitting, None)) is None:
            needed = f"an IPv{some.address.version} socket, since the VTEP address is {some.address}"
            return 0, f"pass {needed}: {some.unit_line} in the socket unit makes one"
        wanted = ports[at]
        host, number = sock.getsockname()[:2]
        if not number:
            return at, f"bind it before: {wanted.unit_line} in the socket unit makes one that is"
        if ip_address(host.partition("%")[0]) != wanted.address:
            how = f"bind it to {wanted.address}, this node's VTEP address in the settings"
            return at, f"{how}, as {wanted.unit_line} in the socket unit does; or change that setting"
        if _peer(sock) is not None:
            return at, "pass it unconnected: a connected one receives from a single peer"
    return at, ""


def _lacking(sockets: UnderlaySockets, port: UnderlayPort) -> Iterator[ConfigError]:
    """Yield what is missing of one port's sockets, or too much."""
    here = f"bound to {port.address} port"
    if not sockets.receivers:
        needed = f"pass a UDP socket {here} {port.number} (overlay.port) under the name {NAME}"
        yield ConfigError(_KEY, None, f"{needed}, to receive: {port.unit_line} in the socket unit")
    if not sockets.senders:
        needed = f"pass another UDP socket {here}, such as 61001, under the name {NAME}"
        line = port.unit_line.removesuffix(str(port.number)) + "61001"
        yield ConfigError(_KEY, None, f"{needed}, to send from; several spread flows: {line} in the socket unit")
    if len(sockets.receivers) > MAX_WORKERS:
        yield ConfigError(_KEY, f"{len(sockets.receivers)} {here} {port.number}", f"pass at most {MAX_WORKERS}")
    if len(sockets.senders) > MOST_SENDERS:
        yield ConfigError(_KEY, f"{len(sockets.senders)} {here}s to send from", f"pass at most {MOST_SENDERS}")
    if len(sockets.receivers) > 1 and not all(map(_is_shared, sockets.receivers)):
        remedy = "set SO_REUSEPORT before they are bound (ReusePort=yes in the socket unit): else only one receives"
        yield ConfigError(_KEY, f"{len(sockets.receivers)} {here} {port.number}", remedy)


def _is_shared(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) != 0
