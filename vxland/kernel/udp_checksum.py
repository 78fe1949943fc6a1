"""UDP checksums of a socket: whether it sends them, and takes datagrams without; udp(7), linux/udp.h."""

from __future__ import annotations

import socket
from typing import Final

_SO_NO_CHECK: Final = 11  # asm-generic/socket.h; IPv4 only
_UDP_NO_CHECK6_TX, _UDP_NO_CHECK6_RX = 101, 102  # linux/udp.h


def accept_none(sock: socket.socket) -> None:
    """Take datagrams without a checksum; over IPv4 every socket does."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)


def send_with(sock: socket.socket, *, checksum: bool) -> None:
    """Send datagrams with or without a checksum from now on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, int(not checksum))
    else:
        sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, int(not checksum))
