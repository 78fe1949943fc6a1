"""Frames on the underlay: captured in a namespace and parsed by scapy, or made there and sent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from scapy.layers.inet import IP, UDP, IPOption_NOP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.l2 import Ether

from .lab import PORT
from .ns import Ns, wait_until

ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SO_NO_CHECK = 11
_UDP = 17
_UDP_NO_CHECK6_TX = 101  # linux/udp.h


@dataclass(frozen=True, slots=True)
class Datagram:
    """One VXLAN datagram on the underlay; reserved bits are those of RFC 7348 section 5."""

    outer_src: str
    outer_dst: str
    outer_tos: int
    outer_ttl: int
    dont_fragment: bool
    fragment: bool
    outer_len: int
    src_port: int
    has_checksum: bool
    checksum_good: bool
    flags: int
    reserved: int
    vni: int
    inner: Any  # scapy's Ether

    @classmethod
    def parse(cls, frame: bytes) -> Datagram | None:
        """Return the datagram of an Ethernet frame; None if it has something else."""
        outer = Ether(frame)
        packet = outer.payload
        if UDP not in packet or packet[UDP].dport != PORT:
            return None
        v4 = packet.version == 4
        if packet.payload.name != "UDP":  # IPv6 with extension headers: no kernel here sends them
            return None
        udp = bytes(packet.payload)[: packet[UDP].len]
        vxlan = udp[8:]
        good = (in4_chksum if v4 else in6_chksum)(_UDP, packet, udp) in {0, 0xFFFF}
        return cls(
            outer_src=packet.src,
            outer_dst=packet.dst,
            outer_tos=packet.tos if v4 else packet.tc,
            outer_ttl=packet.ttl if v4 else packet.hlim,
            dont_fragment=v4 and "DF" in packet.flags,
            fragment=v4 and ("MF" in packet.flags or packet.frag != 0),
            outer_len=packet.len if v4 else packet.plen + 40,
            src_port=packet[UDP].sport,
            has_checksum=packet[UDP].chksum != 0,
            checksum_good=good and packet[UDP].chksum != 0,
            flags=vxlan[0],
            reserved=int.from_bytes(vxlan[1:4], "big") << 8 | vxlan[7],
            vni=int.from_bytes(vxlan[4:7], "big"),
            inner=Ether(vxlan[8:]),
        )


def packet_socket() -> socket.socket:
    """Return a socket for whole frames; it sends, and receives nothing until it is bound with a protocol."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)


class Capture:
    """Frames on e0 of a namespace in both directions, from now on. Close it."""

    def __init__(self, ns: Ns) -> None:
        self._socket = ns.inside(packet_socket)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._socket.bind(("e0", ETH_P_ALL))
        self._socket.setblocking(False)
        self._datagrams: list[Datagram] = []
        self.frames: list[bytes] = []
        """All frames that datagrams() has read, of any kind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def datagrams(self) -> list[Datagram]:
        """Return every VXLAN datagram since the start."""
        while True:
            try:
                frame = self._socket.recv(1 << 17)
            except BlockingIOError:
                return self._datagrams
            self.frames.append(frame)
            if found := Datagram.parse(frame):
                self._datagrams.append(found)

    def wait(self, wanted: Callable[[Datagram], bool], count: int = 1) -> list[Datagram]:
        """Return the first `count` wanted VXLAN datagrams."""

        def found() -> list[Datagram]:
            those = [datagram for datagram in self.datagrams() if wanted(datagram)]
            return those[:count] if len(those) >= count else []

        return wait_until(found, f"{count} such datagrams on the underlay", lambda: str(self._datagrams))


@contextmanager
def checksums_on_the_wire(*namespaces: Ns) -> Iterator[None]:
    """Let the kernel compute checksums during the body: by default a veth leaves them incomplete."""
    for ns in namespaces:
        ns.run("ethtool", "-K", "e0", "tx", "off")
    try:
        yield
    finally:
        for ns in namespaces:
            ns.run("ethtool", "-K", "e0", "tx", "on")


def vxlan_header(vni: int = 1, flags: int = 0x08) -> bytes:
    """Return a VXLAN header."""
    return bytes([flags, 0, 0, 0]) + vni.to_bytes(3, "big") + b"\0"


def inner_udp(
    macs: tuple[str, str], addresses: tuple[str, str], port: int, content: bytes, tos: int = 0, src_port: int = 4000
) -> bytes:
    """Return an inner frame with one UDP datagram; source first in each pair."""
    src, dst = addresses
    packet = IPv6(src=src, dst=dst, tc=tos) if ":" in src else IP(src=src, dst=dst, tos=tos)
    frame = Ether(src=macs[0], dst=macs[1]) / packet / UDP(sport=src_port, dport=port) / content
    return bytes(frame)


def inner_for_daemon(macs: tuple[str, str], addresses: tuple[str, str], port: int, content: bytes) -> bytes:
    """Return such a frame with IPv4 options, which no program carries: it keeps its place in the daemon's queue."""
    packet = IP(src=addresses[0], dst=addresses[1], options=[IPOption_NOP()] * 4)
    return bytes(Ether(src=macs[0], dst=macs[1]) / packet / UDP(sport=4000, dport=port) / content)


class Forger:
    """Sends datagrams to a VTEP's port, from an address of a namespace. Close it."""

    def __init__(self, ns: Ns, address: str, vtep: str) -> None:
        self._socket = ns.socket(address)
        self._to = (vtep, PORT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, datagram: bytes, tos: int = 0, *, checksum: bool = True) -> None:
        """Send one datagram with this outer TOS, with or without an outer checksum."""
        set_tos(self._socket, tos)
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, not checksum)
        else:
            self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, not checksum)
        self._socket.sendto(datagram, self._to)


def set_tos(sock: socket.socket, tos: int) -> None:
    """Set the TOS or traffic class of the socket's further datagrams."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)


class Listener:
    """A UDP socket of a namespace that reports the TOS of received datagrams. Close it."""

    def __init__(self, ns: Ns, address: str) -> None:
        self._socket = ns.socket(address)
        self.port: int = self._socket.getsockname()[1]
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS, linux/in.h
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self) -> tuple[bytes, int]:
        """Return the next datagram and its TOS."""
        content, control, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        return content, control[0][2][0]

    def receive_until(self, marker: bytes) -> dict[bytes, int]:
        """Return every datagram before the one with this content, and its TOS."""
        found: dict[bytes, int] = {}
        while (got := self.receive())[0] != marker:
            found[got[0]] = got[1]
        return found
