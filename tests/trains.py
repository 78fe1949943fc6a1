"""Trains as a peer with UDP_GRO receives them, and small frames to make them of."""

from __future__ import annotations

from tests.fabric import Lone, received_trains
from tests.frames import ICMP, MAC_B, POD_A, POD_B, echo, frame_of, ipv4, vxlan


def sent(lone: Lone, frames: list[tuple[bytes, bytes]], datagrams: int) -> list[list[bytes]]:
    """The trains that arrive when one wake-up meets frames with their virtio headers, each as a list of datagrams."""
    node, peer = lone
    for virtio, frame in frames:
        node.put(frame, virtio)
    node.pump.on_tap_readable()
    trains: list[list[bytes]] = []
    while sum(map(len, trains)) < datagrams:
        for buffer, stride in received_trains(peer):
            size = stride or len(buffer)
            trains.append([buffer[at : at + size] for at in range(0, len(buffer), size)])
    assert sum(map(len, trains)) == datagrams
    return trains


def frames_in(trains: list[list[bytes]]) -> list[bytes]:
    """The inner frames in the order of their arrival."""
    assert all(datagram[:8] == vxlan(b"") for train in trains for datagram in train)
    return [datagram[8:] for train in trains for datagram in train]


def small(i: int, nbytes: int = 32, dst_mac: int = MAC_B) -> bytes:
    """A numbered frame of some bytes of payload."""
    return frame_of(ipv4(POD_A, POD_B, ICMP, echo(i.to_bytes(4, "big") + bytes(nbytes - 4))), dst_mac)
