"""The underlay sockets: one that receives on the VXLAN port, and several that send from separate ports.

They send the outer headers of `OuterHeader`, by default those of a kernel vxlan device with flannel's attributes
(drivers/net/vxlan/vxlan_core.c): TTL 64, TOS 0, DF clear, UDP checksum on. Several source ports replace the kernel's
hash over ip_local_port_range, so that ECMP and RSS spread inner flows. Fixed values are options of the socket. DF can
only be set for a socket, not for a datagram, so with `df: inherit` there are separate sockets for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from copy import copy
from ipaddress import ip_address

from vxland.datapath.train import MAX_DATAGRAMS
from vxland.forwarding.io.fdstore import TakeFd, in_another_netns, nothing
from vxland.kernel.sockets import (
    IP_MTU_DISCOVER,
    IPV6_MTU_DISCOVER,
    SO_BINDTOIFINDEX,
    bound,
    ignore_path_mtu,
    set_if_known,
)
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Address

TTL = 64  # of packets without a TTL to inherit
RECEIVE_BUFFER = 8 << 20  # bytes; a burst of 64 KiB superframes must fit while the loop is busy
SEND_BUFFER = 4 << 20
_PROBE_BUFFER = 1 << 20  # for the 128 datagrams of a probe, each of which the kernel charges for with 1 KiB or so

_IP_RECVTOS = 13  # linux/in.h, not in the socket module
_PMTUDISC_DONT = 0
_PMTUDISC_PROBE = 3  # DF set; the interface's MTU counts
_PMTUDISC_OMIT = 5  # the same, and larger datagrams may be fragmented; Linux 3.15
_PMTUDISC_DO = 2
_IP_RECVFRAGSIZE = 25
_IPV6_RECVFRAGSIZE = 77
_UDP_NO_CHECK6_TX = 101  # linux/udp.h
_UDP_NO_CHECK6_RX = 102
_SO_RCVMARK = 75  # asm-generic/socket.h, Linux 5.19
_SO_MEMINFO = 55  # asm-generic/socket.h; linux/sock_diag.h: nine numbers
_UDP_SEGMENT = 103  # linux/udp.h
_UDP_GRO = 104
_SIOCGSKNS = 0x894C  # linux/sockios.h
_OTHERS = 1  # source ports beside those of the senders: of node/path_mtu_kernel.py
_DISCOVER = {False: _PMTUDISC_DONT, True: _PMTUDISC_DO}  # by whether DF is set
_IGNORE = {False: _PMTUDISC_OMIT, True: _PMTUDISC_PROBE}


def mismatch(fd: int, address: Address, port: int | None = None, vrf: int = 0) -> str:
    """Return why an inherited descriptor is not a UDP socket on address and port (None: any), "" if it is. OSError."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if (sock.family, sock.type) != (family, socket.SOCK_DGRAM):
            return f"it is a socket of another kind: {sock.family.name}, {sock.type.name}"
        host, bound = sock.getsockname()[:2]
        if ip_address(host) != address or bound != (port or bound):
            return f"it is bound to {host} port {bound}"
        if vrf and sock.getsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX) != vrf:
            return "it is in another VRF"
    if os.fstat(fd).st_uid != os.geteuid():  # SO_REUSEPORT lets only one user's sockets share a port
        return "it was opened by another user"
    return "it is in another network namespace" if in_another_netns(fd, _SIOCGSKNS) else ""


class Udp:
    """The sockets of one VTEP, bound to its address; `take` returns those of an earlier process.

    If `outer` inherits DF, the second half of `senders` sets it. Raises StartError if the address is not this node's,
    OSError if the port is in use.
    """

    def __init__(
        self,
        address: Address,
        port: int,
        source_ports: int,
        offload: bool,
        shared: bool = False,
        take: TakeFd = nothing,
        outer: OuterHeader = OuterHeader(),  # noqa: B008  (frozen)
        vrf: int = 0,
        *,
        segment: bool = True,
        gro: bool = True,
    ) -> None:
        self.address = address
        self.outer = outer
        self.port = port
        self._vrf = vrf
        inherited = take("receive", 0)
        if shared and inherited is None:  # SO_REUSEPORT would also join another program's socket
            bound(address, port, vrf=vrf).close()
        self.receiver, self.gro = _receiver(address, port, offload and gro, shared, inherited, outer, vrf)
        try:
            self.senders = []
            dfs = _dfs(outer, source_ports)
            for number, df in enumerate(dfs):
                self.senders.append(_sender(address, take("send", number), outer, df, vrf, len(dfs) + _OTHERS))
            self.max_datagrams = _probe_segment(self.senders[0]) if offload and segment else 1
            for sender in self.senders:  # nothing answers to a source port; keep the queue of stray datagrams small
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        except BaseException:
            self.close()
            raise

    def sibling(self, inherited: int | None = None) -> Udp:
        """Return another receiver next to this one, which must be `shared`; it uses the same senders."""
        other = copy(self)
        other.receiver, _ = _receiver(self.address, self.port, self.gro, True, inherited, self.outer, self._vrf)
        return other

    def public(self, address: Address, inherited: int | None = None, *, first: bool, shared: bool) -> socket.socket:
        """Return a receiver at another address, which this node need not have yet; the caller closes it."""
        if shared and first and inherited is None:  # as above
            bound(address, self.port, vrf=self._vrf, free=True).close()
        return _receiver(address, self.port, self.gro, shared, inherited, self.outer, self._vrf, free=True)[0]

    def heed_path_mtus(self, heeded: bool) -> None:
        """Send by the path MTUs in the kernel's cache, or by the interface's MTU alone. Has an effect for IPv4 only.

        In IPv6 a forged path MTU cannot be below 1,280 bytes, and only senders can fragment.
        """
        if self.address.version == 6:
            return
        for sock, df in zip(self.senders, _dfs(self.outer, len(self.senders) // len(_dfs(self.outer, 1))), strict=True):
            how = _DISCOVER[df] if heeded else _IGNORE[df]
            set_if_known(sock, socket.IPPROTO_IP, IP_MTU_DISCOVER, how)

    def stop_gro(self, public: socket.socket | None) -> None:
        """Receive single datagrams from now on, also from the worker's second socket `public` if it has one."""
        self.gro = _set_gro(self.receiver, False)
        if public is not None:
            _set_gro(public, False)

    def close(self) -> None:
        """Close every socket."""
        for sock in (self.receiver, *self.senders):
            sock.close()


def receive_queue(sock: socket.socket) -> tuple[int, int, int] | None:
    """Return the bytes waiting in a receiver, its capacity in bytes, and the datagrams lost since it was opened.

    The last number also counts datagrams with a bad outer checksum. Returns None before Linux 4.12, which does not
    report them.
    """
    try:
        numbers = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    except OSError:
        return None
    waiting, room, *_, dropped = struct.unpack("=9I", numbers.ljust(36, b"\0"))
    return waiting, room, dropped


def _receiver(
    address: Address,
    port: int,
    offload: bool,
    shared: bool,
    inherited: int | None,
    outer: OuterHeader,
    vrf: int,
    *,
    free: bool = False,
) -> tuple[socket.socket, bool]:
    """The receiving socket, and whether UDP_GRO is on."""
    sock = bound(address, port, shared, vrf=vrf, free=free) if inherited is None else _adopted(inherited, shared)
    if address.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        set_if_known(sock, socket.IPPROTO_IP, _IP_RECVFRAGSIZE, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        set_if_known(sock, socket.IPPROTO_IPV6, _IPV6_RECVFRAGSIZE, 1)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, not outer.checksum_v6)
    set_if_known(sock, socket.SOL_SOCKET, _SO_RCVMARK, 1)  # for the sizes of datapath/datagram.py
    ignore_path_mtu(sock)
    _set_buffer(sock, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock, _set_gro(sock, offload)


def _adopted(inherited: int, shared: bool) -> socket.socket:
    sock = socket.socket(fileno=inherited)
    sock.setblocking(False)
    # A socket unit sets it, and any local user's socket that has it could take the port: net/ipv4/udp.c.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    if shared:  # the kernel lets others join a socket that is bound already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def sender_count(outer: OuterHeader, source_ports: int) -> int:
    """Return the number of sending sockets if flows are hashed over `source_ports`."""
    return len(_dfs(outer, source_ports))


def _dfs(outer: OuterHeader, source_ports: int) -> list[bool]:
    """Return for each sending socket whether it sets DF."""
    dfs = {"unset": [False], "set": [True], "inherit": [False, True]}[outer.df]
    return [df for df in dfs for _ in range(source_ports)]


def _sender(
    address: Address, inherited: int | None, outer: OuterHeader, df: bool, vrf: int, needed: int
) -> socket.socket:
    sock = bound(address, 0, vrf=vrf, needed=needed) if inherited is None else _adopted(inherited, shared=False)
    discover = _DISCOVER[df]
    tos = (outer.dscp or 0) << 2
    if address.version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, outer.ttl or TTL)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, outer.ttl or TTL)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_TX, not outer.checksum_v6)
    _set_buffer(sock, socket.SO_SNDBUF, SEND_BUFFER)
    return sock


def _probe_segment(sender: socket.socket) -> int:
    """Return the number of datagrams that one UDP_SEGMENT send may carry: 128, 64 on older kernels, 1 without it.

    The sender sends them to itself. The kernel does not segment without a checksum: net/ipv6/udp.c.
    """
    _set_buffer(sender, socket.SO_RCVBUF, _PROBE_BUFFER)  # else the node's UdpRcvbufErrors grow with each start
    _set_gro(sender, True)  # then they arrive as one, if the kernel has UDP_GRO
    found = 1
    for datagrams in (MAX_DATAGRAMS, 64):
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", 1))]
        with contextlib.suppress(OSError):
            sender.sendmsg([bytes(datagrams)], control, 0, sender.getsockname())
            found = datagrams
            break
    with contextlib.suppress(OSError):
        for _ in range(MAX_DATAGRAMS):
            sender.recv(MAX_DATAGRAMS)
    _set_gro(sender, False)
    return found


def _set_gro(sock: socket.socket, wanted: bool) -> bool:
    """Switch UDP_GRO on or off; return whether it is on."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, wanted)
    except OSError:
        return False
    return wanted


def _set_buffer(sock: socket.socket, option: int, nbytes: int) -> None:
    """Set a buffer size in bytes, beyond net.core's limit with CAP_NET_ADMIN, else up to it."""
    force = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}[option]  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
    try:  # first: an inherited socket must not shrink for a moment
        sock.setsockopt(socket.SOL_SOCKET, force, nbytes)
    except PermissionError:
        if sock.getsockopt(socket.SOL_SOCKET, option) < 2 * nbytes:  # else its maker could set more
            sock.setsockopt(socket.SOL_SOCKET, option, nbytes)
