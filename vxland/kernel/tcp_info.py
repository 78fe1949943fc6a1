"""TCP_INFO of a socket, tcp(7): what the kernel knows about a connection."""

from __future__ import annotations

import socket
from struct import Struct
from typing import Final

_TOTAL_RETRANS: Final = Struct("=100xI")  # linux/tcp.h, struct tcp_info: 8 bytes, 23 words, tcpi_total_retrans


def retransmitted(sock: socket.socket) -> int:
    """Return the segments that were sent again, SYNs too."""
    (count,) = _TOTAL_RETRANS.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS.size))
    return int(count)
