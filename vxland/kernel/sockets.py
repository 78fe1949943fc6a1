"""UDP sockets on the underlay: bound to an address, in a VRF or none, with a reason for each refusal."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from vxland.model.errors import StartError
from vxland.model.lease import Address
from vxland.model.shortage import shortage

IP_MTU_DISCOVER = 10  # linux/in.h, not in the socket module
IPV6_MTU_DISCOVER = 23  # linux/in6.h
SO_BINDTOIFINDEX = 62  # asm-generic/socket.h

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78  # linux/in6.h, since Linux 4.15
_PMTUDISC_PROBE = 3
_PMTUDISC_INTERFACE = 4  # DF clear; the interface's MTU counts, and ICMP errors are ignored

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # for IPv6 too
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def ignore_path_mtu(sock: socket.socket) -> None:
    """Keep the kernel from learning a path MTU from ICMP errors that quote this socket.

    Otherwise one forged error, from the VXLAN port to the VXLAN port, narrows the path to a VTEP for all sockets.
    Kernel: ip_sk_accept_pmtu, ip6_sk_accept_pmtu.
    """
    if sock.family == socket.AF_INET:
        set_if_known(sock, socket.IPPROTO_IP, IP_MTU_DISCOVER, _PMTUDISC_INTERFACE)
    else:
        set_if_known(sock, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, _PMTUDISC_INTERFACE)


def probe_path(sock: socket.socket) -> None:
    """Send with DF and ignore what the kernel knows of the path's MTU, because full packets are to find that out."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)


def bound(
    address: Address, port: int, shared: bool = False, *, vrf: int = 0, needed: int = 1, free: bool = False
) -> socket.socket:
    """Open a non-blocking UDP socket. Port 0 is any free one, of which vxland needs `needed`; `vrf` is 0 for none.

    A `free` socket may be bound to an address that this node does not have yet. StartError: the address is not ours, or
    a resource is short; OSError: the port is taken.
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
            return _no_source_port(address, needed)
        case errno.EACCES:
            return _no_low_port(port)
        case _:
            return shortage(exc, f"UDP port {port or 'to send from'}")


def _no_source_port(address: Address, needed: int) -> StartError:
    """The error for EADDRINUSE on port 0: every port of the range is taken."""
    cause = (
        f"no UDP port of {address} is free to send from: net.ipv4.ip_local_port_range is {_read(_PORT_RANGE)}, "
        f"and vxland needs {needed} of it"
    )
    return StartError(cause, "widen that range with sysctl, or lower underlay.source_ports")


def _no_low_port(port: int) -> StartError | None:
    """The error for EACCES, if the port is one that needs a capability."""
    first = _read(_UNPRIVILEGED)
    if port >= (int(first) if first.isdecimal() else 1024):
        return None
    cause = f"UDP port {port} needs CAP_NET_BIND_SERVICE: net.ipv4.ip_unprivileged_port_start is {first}"
    return StartError(cause, f"grant it, set that sysctl to {port} or less, or choose another overlay.port")


def _read(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="ascii").split())
    except OSError:
        return "unknown"


def enter_vrf(sock: socket.socket, vrf: int) -> None:
    """Put a socket that is not bound yet into the VRF of this index; StartError if the kernel refuses.

    A socket outside it has neither its routes nor, without net.ipv4.udp_l3mdev_accept, its datagrams.
    Kernel: Documentation/networking/vrf.rst.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, vrf)
    except OSError as exc:
        cause = f"the underlay's interface is in a VRF, and a socket cannot be bound to that: {exc.strerror}"
        remedy = "grant CAP_NET_RAW (not needed since Linux 5.7; impossible before 5.1), or use another interface"
        raise StartError(cause, remedy) from exc


def set_if_known(sock: socket.socket, level: int, option: int, value: int) -> None:
    """Set an option that older kernels lack: fragment sizes came with Linux 4.11, marks with 5.19."""
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, value)
