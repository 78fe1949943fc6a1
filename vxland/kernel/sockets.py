"""UDP sockets on the underlay: bound to an address, in a VRF or none, with every refusal explained."""

from __future__ import annotations

import contextlib
import errno
import socket

from vxland.model.errors import StartError
from vxland.model.lease import Address
from vxland.model.shortage import no_low_port, no_source_port, shortage

IP_MTU_DISCOVER = 10  # linux/in.h, not in the socket module
IPV6_MTU_DISCOVER = 23  # linux/in6.h
SO_BINDTOIFINDEX = 62  # asm-generic/socket.h

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78  # linux/in6.h, since Linux 4.15
_PMTUDISC_INTERFACE = 4  # DF clear; the interface's MTU counts, and ICMP about what the socket sends is not heeded


def ignore_path_mtu(sock: socket.socket) -> None:
    """Have the kernel learn no path MTU from ICMP errors that quote this socket, which sends nothing that is too big.

    Else one forged error, from the VXLAN port to the VXLAN port, narrows the way to a VTEP for all that is sent there:
    ip_sk_accept_pmtu, ip6_sk_accept_pmtu.
    """
    if sock.family == socket.AF_INET:
        set_if_known(sock, socket.IPPROTO_IP, IP_MTU_DISCOVER, _PMTUDISC_INTERFACE)
    else:
        set_if_known(sock, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, _PMTUDISC_INTERFACE)


def bound(
    address: Address, port: int, shared: bool = False, *, vrf: int = 0, needed: int = 1, free: bool = False
) -> socket.socket:
    """A new UDP socket that does not block; a port of 0 is any, of which `needed` are, and `vrf` is 0 for none.

    A `free` one may be bound to an address that this node does not have, and hears nothing until it has.
    StartError where the address is not ours, or something is short; OSError where the port is taken.
    """
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if vrf:
            enter_vrf(sock, vrf)
        if free:
            level = socket.IPPROTO_IP if address.version == 4 else socket.IPPROTO_IPV6
            sock.setsockopt(level, _IP_FREEBIND if address.version == 4 else _IPV6_FREEBIND, 1)
        sock.bind((str(address), port))
    except BaseException as exc:
        if sock is not None:
            sock.close()
        explained = _explained(exc, address, port, needed) if isinstance(exc, OSError) else None
        if explained is None:
            raise
        raise explained from exc
    return sock


def _explained(exc: OSError, address: Address, port: int, needed: int) -> StartError | None:
    match exc.errno:
        case errno.EADDRNOTAVAIL:
            cause = f"underlay.address: {address} is not an address of this machine"
            return StartError(cause, "give an address of an interface that is up, or leave it out")
        case errno.EADDRINUSE if port == 0:
            return no_source_port(address, needed)
        case errno.EACCES:
            return no_low_port(port)
        case _:
            return shortage(exc, f"UDP port {port or 'to send from'}")


def enter_vrf(sock: socket.socket, vrf: int) -> None:
    """Have a socket that is not bound yet belong to the VRF of this index; StartError where the kernel refuses.

    A socket of no VRF has neither its routes nor, without net.ipv4.udp_l3mdev_accept, its datagrams.
    Kernel: Documentation/networking/vrf.rst.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, vrf)
    except OSError as exc:
        cause = f"the underlay's interface is in a VRF, and a socket cannot be bound to that: {exc.strerror}"
        remedy = "grant CAP_NET_RAW (Linux 5.7 needs it no more; before 5.1 there is no way), or take another interface"
        raise StartError(cause, remedy) from exc


def set_if_known(sock: socket.socket, level: int, option: int, value: int) -> None:
    """Set an option that older kernels lack: the fragment sizes came with Linux 4.11."""
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, value)
