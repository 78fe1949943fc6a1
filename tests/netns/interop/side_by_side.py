"""vxland and a kernel vxlan device get the same input, one after the other, and all outputs are compared.

      node a: vxland                                     node b: kernel vxlan
      [captured] flannel.1 - [captured] e0 ==== e0 [captured] - flannel.1 [captured]

Both devices have the same MAC and VNI, and know one peer, by the same MAC. Each input is followed by numbered
separators that pass: frames captured between two separators came from the input between them. The hosts' stacks receive
nothing: nftables drops the frames at the device's ingress, which comes after the packet sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from tests.frames import ARP, BROADCAST, arp, ethernet, vxlan, word_sum

from .lab import PORT, Lab, Node
from .mutations import FAR, OWN, PEER, SEPARATOR, Mutant
from .ns import wait_until
from .wire import Forger, checksums_on_the_wire, packet_socket

BLOCK = 64
"""Number of inputs between two waits for separators."""
_ETH_P_ALL, _PACKET_OUTGOING, _SO_RCVBUFFORCE = 3, 4, 33
_RULES = "table netdev t { chain c { type filter hook ingress device flannel.1 priority 0; policy drop; }; }"


@dataclass(frozen=True)
class Datagram:
    """The fields of a datagram on the underlay except addresses, source port and IP ID, which may differ."""

    tos: int
    fragment: int
    ttl: int
    lengths: tuple[int, int]
    dport: int
    checksum_good: bool
    payload: bytes

    @classmethod
    def parse(cls, frame: bytes) -> Datagram | None:
        """Return the datagram of an Ethernet frame with IPv4 and UDP to the VXLAN port; None for any other."""
        packet = frame[14:]
        if frame[12:14] != b"\x08\0" or packet[9] != socket.IPPROTO_UDP or packet[22:24] != PORT.to_bytes(2, "big"):
            return None
        total_len, udp_len = int.from_bytes(packet[2:4], "big"), int.from_bytes(packet[24:26], "big")
        udp = packet[20:total_len]
        pseudo = packet[12:20] + b"\0\x11" + udp_len.to_bytes(2, "big")
        return cls(
            tos=packet[1],
            fragment=int.from_bytes(packet[6:8], "big"),
            ttl=packet[8],
            lengths=(total_len - 20, udp_len),
            dport=PORT,
            checksum_good=udp[6:8] != b"\0\0" and word_sum(pseudo + udp) == 0xFFFF,
            payload=udp[8:],
        )


@dataclass(frozen=True)
class Encapsulated:
    """The results of a frame: datagrams on the underlay, and frames back to the host."""

    datagrams: list[Datagram]
    answers: list[bytes]


def mac(value: int) -> str:
    """Return a MAC as `ip` expects it."""
    return value.to_bytes(6, "big").hex(":")


def up(lab: Lab) -> None:
    """Build the lab with two equal devices."""
    lab.build()
    lab.kernel.create(mac(OWN))
    lab.kernel.add_peer(lab.a, mac(PEER))
    lab.vxland.settings["overlay"]["mac"] = mac(OWN)
    lab.vxland.settings["datapath"] |= {"workers": 1}  # several would change the order
    lab.vxland.add_peer(lab.b, mac(PEER))
    lab.vxland.start()
    for node in lab.nodes:
        node.ns.run("ethtool", "-K", "flannel.1", "gro", "off")
        node.ns.run("nft", _RULES)


class DeviceCapture:
    """Frames that pass a device in one direction from now on; on e0 only VXLAN. Close it."""

    def __init__(self, node: Node, device: str, *, outgoing: bool) -> None:
        self._outgoing = outgoing
        self._all = device != "e0"
        self._socket = node.ns.inside(packet_socket)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((device, _ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> Iterator[bytes]:
        """Yield the frames since the last call."""
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return
            if (address[2] == _PACKET_OUTGOING) == self._outgoing and (self._all or Datagram.parse(frame)):
                yield frame


def _cut(capture: DeviceCapture, first: int, count: int, number_of: Callable[[bytes], int | None]) -> list[list[bytes]]:
    """Return the captured frames before each of `count` separators, the first of which has number `first`."""
    pieces: list[list[bytes]] = [[]]

    def complete() -> bool:
        for frame in capture.frames():
            number = number_of(frame)
            if number is None:
                pieces[-1].append(frame)
            else:
                assert number == first + len(pieces) - 1
                pieces.append([])
        return len(pieces) > count

    wait_until(complete, f"{count} separators from {first} on", lambda: f"there are {len(pieces) - 1}")
    assert pieces.pop() == []
    return pieces


def decapsulated(near: Node, far: Node, given: Sequence[Mutant]) -> list[list[bytes]]:
    """Return the frames at the device of `near` for each datagram of `far`."""
    out = []
    with Forger(far.ns, far.vtep, near.vtep) as forger, DeviceCapture(near, "flannel.1", outgoing=False) as host:
        for first in range(0, len(given), BLOCK):
            block = given[first : first + BLOCK]
            for at, mutant in enumerate(block, first):
                forger.send(mutant.content, mutant.ecn, checksum=mutant.checksum)
                forger.send(vxlan(_separator(at, OWN, PEER)))
            out += _cut(host, first, len(block), _separated)
    return out


def encapsulated(node: Node, given: Sequence[bytes], *, answers: bool) -> list[Encapsulated]:
    """Return the results of each frame that `node`'s host passes to its device, with or without answered requests."""
    out = []
    with (
        DeviceCapture(node, "e0", outgoing=True) as wire,
        DeviceCapture(node, "flannel.1", outgoing=False) as host,
        node.ns.inside(packet_socket) as device,
        checksums_on_the_wire(node.ns),
    ):
        device.bind(("flannel.1", 0))
        for first in range(0, len(given), BLOCK):
            block = given[first : first + BLOCK]
            for at, frame in enumerate(block, first):
                device.send(frame)
                device.send(_separator(at, PEER, OWN))
                device.send(_question(at))
            sent = _cut(wire, first, len(block), _sent_separator)
            back = _cut(host, first, len(block), _answered_question) if answers else [[] for _ in block]
            for frames, answer in zip(sent, back, strict=True):
                datagrams = [found for frame in frames if (found := Datagram.parse(frame))]
                out.append(Encapsulated(datagrams, answer))
        assert answers or list(host.frames()) == []
    return out


def _separator(at: int, dst: int, src: int) -> bytes:
    return ethernet(dst, src, SEPARATOR, at.to_bytes(4, "big") + bytes(42))


def _separated(frame: bytes) -> int | None:
    return int.from_bytes(frame[14:18], "big") if frame[12:14] == SEPARATOR.to_bytes(2, "big") else None


def _sent_separator(frame: bytes) -> int | None:
    found = Datagram.parse(frame)
    return _separated(found.payload[8:]) if found else None


def _question(at: int) -> bytes:
    """Return a request that vxland answers and a kernel device drops: ARP for a leased address, from 0.0.0.0 and up."""
    return ethernet(BROADCAST, OWN, ARP, arp(1, OWN, f"0.{at >> 16}.{at >> 8 & 255}.{at & 255}", FAR))


def _answered_question(frame: bytes) -> int | None:
    """Return the number of the request that the frame answers: an ARP reply to a target in network 0."""
    asked = frame[12:14] == ARP.to_bytes(2, "big") and frame[20:22] == b"\0\2" and frame[38:39] == b"\0"
    return int.from_bytes(frame[38:42], "big") if asked else None
