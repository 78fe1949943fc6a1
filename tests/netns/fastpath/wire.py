"""The programs attached to real devices, and a packet socket at each end."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.netns.fastpath.loaded import PEER, POD, TAP, Loaded
from tests.patience import PATIENCE_S
from vxland.fastpath.libbpf import detach, library
from vxland.fastpath.programs import place

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
INNER_AT = 14 + 36
"""The begin of the inner frame in a packet on the underlay."""


def packets(device: str) -> socket.socket:
    """Return a socket that sends and receives all frames of a device, each behind a virtio header."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)  # for all segments of a superframe
    opened.bind((device, ETH_P_ALL))
    return opened


def mac_of(device: str) -> int:
    """Return the MAC of a device."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asked:
        asked.bind((device, 0))
        return int.from_bytes(asked.getsockname()[4], "big")


def next_of(*sockets: socket.socket) -> tuple[int, bytes]:
    """Return the place of the one socket that gets a frame, and the frame."""
    ready, _, _ = select.select(sockets, [], [], PATIENCE_S)
    assert len(ready) == 1
    return sockets.index(ready[0]), ready[0].recv(1 << 17)[10:]


@dataclass(frozen=True)
class Wire:
    """Sockets at the TAP, at the pods' end of it, where the daemon would read, and at the underlay's other end."""

    tap: socket.socket
    pod: socket.socket
    peer: socket.socket

    def through(self, loaded: Loaded, frame: bytes, virtio: bytes) -> tuple[bool, bytes]:
        """Send a frame through the TAP; return whether a program carries it, and what then arrives at either end."""
        loaded.forget()
        loaded.restart_counts()
        self.tap.send(virtio + frame)
        where, found = next_of(self.pod, self.peer)
        return where == 1, found

    def leaving(self, loaded: Loaded, frame: bytes, virtio: bytes, carried: bytes, left: bytes) -> list[bytes]:
        """Send a frame through the TAP, then one that is carried and one that is left; return what leaves before."""
        loaded.forget()
        for each in (virtio + frame, bytes(10) + carried, bytes(10) + left):
            self.tap.send(each)
        while next_of(self.pod)[1] != left:
            pass
        found = []
        while not (packet := self.next_segment()).endswith(carried):
            found.append(packet)
        return found

    def next_segment(self) -> bytes:
        """Return the next packet that leaves through the underlay."""
        return next_of(self.peer)[1]

    def next_frame(self) -> bytes:
        """Return the next frame that a program takes out of a packet."""
        return next_of(self.tap)[1]


@contextmanager
def wired(loaded: Loaded) -> Iterator[Wire]:
    """Attach the programs meanwhile."""
    lib = library()
    assert lib is not None
    with packets(TAP) as tap, packets(POD) as pod, packets(PEER) as peer:
        loaded.programs.attach(loaded.tap, {loaded.underlay})
        try:
            yield Wire(tap, pod, peer)
        finally:
            detach(lib, place(TAP, loaded.tap, "egress"))
            detach(lib, place(TAP, loaded.underlay, "ingress"))
