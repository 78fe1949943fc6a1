"""The underlay sockets: one that receives on the VXLAN port, and several that send from ports of their own.

They send what a kernel vxlan device with flannel's attributes sends (drivers/net/vxlan/vxlan_core.c): TTL 64, DF clear,
UDP checksum on. Several source ports stand in for the kernel's hash over ip_local_port_range, so that ECMP and RSS
spread inner flows.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from copy import copy

from vxland.datapath.train import MAX_DATAGRAMS
from vxland.errors import StartError
from vxland.model import Address

TTL = 64
RECEIVE_BUFFER = 8 << 20  # octets; a burst of 64 KiB superframes must fit while the loop is away
SEND_BUFFER = 4 << 20

_IP_RECVTOS = 13  # linux/in.h, not in the socket module
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23  # linux/in6.h
_PMTUDISC_DONT = 0
_SO_MEMINFO = 55  # asm-generic/socket.h; linux/sock_diag.h: nine numbers
_UDP_SEGMENT = 103  # linux/udp.h
_UDP_GRO = 104


class Udp:
    """The sockets of one VTEP, bound to its address. StartError where the port is taken or the address is not ours."""

    def __init__(self, address: Address, port: int, source_ports: int, offload: bool, shared: bool = False) -> None:
        self.address = address
        self.port = port
        if shared:  # SO_REUSEPORT would let us in beside a socket that is not ours
            _bound(address, port).close()
        self.receiver, self.gro = _receiver(address, port, offload, shared)
        try:
            self.senders = [_sender(address) for _ in range(source_ports)]
            self.max_datagrams = _probe_segment(address) if offload else 1
        except BaseException:
            self.receiver.close()
            raise

    def sibling(self) -> Udp:
        """A further receiver beside this one, which must be `shared`; the senders are the same sockets."""
        other = copy(self)
        other.receiver, _ = _receiver(self.address, self.port, self.gro, shared=True)
        return other

    def receive_queue(self) -> tuple[int, int, int] | None:
        """Octets that wait in the receiver, octets it has room for, and datagrams it had none for since it is open.

        The last one also counts datagrams with a bad outer checksum. None before Linux 4.12, which does not tell.
        """
        try:
            told = self.receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        except OSError:
            return None
        waiting, room, *_, dropped = struct.unpack("=9I", told.ljust(36, b"\0"))
        return waiting, room, dropped

    def close(self) -> None:
        """Close every socket."""
        for sock in (self.receiver, *self.senders):
            sock.close()


def _receiver(address: Address, port: int, offload: bool, shared: bool) -> tuple[socket.socket, bool]:
    """The receiving socket, and whether UDP_GRO is on."""
    sock = _bound(address, port, shared)
    if address.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    _set_buffer(sock, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock, offload and _ask_gro(sock)


def _bound(address: Address, port: int, shared: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((str(address), port))
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRNOTAVAIL:
            cause = f"underlay.address: {address} is not an address of this machine"
            raise StartError(cause, "give an address of an interface that is up, or leave it out") from exc
        raise
    return sock


def _sender(address: Address) -> socket.socket:
    sock = _bound(address, 0)
    if address.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
    _set_buffer(sock, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 0
    )  # nobody answers to a source port; keep what strays in small
    return sock


def _probe_segment(address: Address) -> int:
    """Datagrams that one UDP_SEGMENT send may carry: 128, 64 on older kernels, 1 where there is none."""
    with _bound(address, 0) as sock:
        for datagrams in (MAX_DATAGRAMS, 64):
            control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", 1))]
            with contextlib.suppress(OSError):
                sock.sendmsg([bytes(datagrams)], control, 0, sock.getsockname())
                return datagrams
    return 1


def _ask_gro(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


def _set_buffer(sock: socket.socket, option: int, octets: int) -> None:
    """Set a buffer size beyond net.core's limit where CAP_NET_ADMIN allows, else up to it."""
    force = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}[option]  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
    sock.setsockopt(socket.SOL_SOCKET, option, octets)
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, force, octets)
