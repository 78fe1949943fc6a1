"""tcpdump's part of the walk-through: captures every frame on one device of one namespace, in both directions."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import Self

from vxland.lab import shell
from vxland.lab.demo.decode import DecodedPacket, decode

MAX_FRAMES = 4096  # the pings here need a few dozen; a flood must not fill the memory
MAX_FRAME = 65_536

_ETH_P_ALL = 0x0003
_SOL_PACKET, _ADD_MEMBERSHIP, _MR_PROMISC = 263, 1, 1  # linux/if_packet.h
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
_MREQ = Struct("@iHH8s")  # struct packet_mreq
_TIMESPEC = Struct("@ll")


@dataclass(frozen=True, slots=True)
class Seen:
    """One captured frame, decoded, with the kernel's time stamp."""

    frame: bytes
    packet: DecodedPacket
    at_ns: int


class Tcpdump:
    """A packet socket on a device; from its creation, frames wait in its buffer until `drain`."""

    def __init__(self, namespace: str, device: str) -> None:
        self.namespace = namespace
        self.device = device
        self._socket = shell.inside(namespace, self._open)  # a socket stays in the namespace where it was made

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # 0: nothing before bind
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.bind((self.device, _ETH_P_ALL))
        # Promiscuous, as tcpdump: otherwise a bridge shows no frames between two of its ports.
        mreq = _MREQ.pack(socket.if_nametoindex(self.device), _MR_PROMISC, 0, b"")
        sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, mreq)
        return sock

    def drain(self) -> list[Seen]:
        """Return the frames received since the last call, oldest first; at most MAX_FRAMES."""
        found: list[Seen] = []
        while len(found) < MAX_FRAMES:
            try:
                frame, notes, _, _ = self._socket.recvmsg(MAX_FRAME, socket.CMSG_SPACE(_TIMESPEC.size))
            except BlockingIOError:
                break
            found.append(Seen(frame, decode(frame), _time_of(notes)))
        return found

    def close(self) -> None:
        """Stop the capture."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _time_of(notes: list[tuple[int, int, bytes]]) -> int:
    """Return the time stamp in a message's control data, in nanoseconds; 0 if it has none."""
    for level, kind, value in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0
