"""Ping sockets: unprivileged ones if net.ipv4.ping_group_range allows them, or else raw ones. icmp(7).

Each is bound to the source address of its pings. The interface is chosen for each ping (IP_PKTINFO), so one socket
reaches peers through the tunnel and beside it; with 0 the kernel's routes decide. DF is set, and the kernel's own path
MTU is ignored (IP_PMTUDISC_PROBE), because full pings exist to find it out.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vxland.kernel.errqueue import Failure, send_past_errors, take_errors, want_errors
from vxland.kernel.sockets import enter_vrf, ignore_path_mtu, probe_path
from vxland.model.errors import StartError
from vxland.model.lease import Address
from vxland.wire.echo import HDR_LEN, IP_LEN, Echo, build_request, parse_quoted_request, parse_reply

MAX_REPLIES = 256  # read per call
MAX_IDENT = 0xFFFF

_RANGE = Path("/proc/sys/net/ipv4/ping_group_range")
_IP_PKTINFO = 8  # linux/in.h
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1  # linux/icmp.h, linux/icmpv6.h
_BLOCKED = 0xFFFF_FFFF  # of 32 types of message
_ONLY_REPLIES = {  # 0 of IPv4, 129 of IPv6
    4: struct.pack("=I", _BLOCKED & ~(1 << 0)),
    6: struct.pack("=8I", *[_BLOCKED] * 4, _BLOCKED & ~(1 << 129 - 128), *[_BLOCKED] * 3),
}
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_TIMESPEC = struct.Struct("=qq")
_MAX_LEN = 1 << 16


@dataclass(frozen=True, slots=True)
class Reply:
    """An echo reply: its source, its content, and how long it waited in the socket, in seconds."""

    source: Address
    echo: Echo
    waited_s: float


class Pinger:
    """A socket that pings from one address. OSError: the address is not local; StartError: pinging is not allowed.

    Without `full`, all pings are small, and the kernel learns no path MTU from ICMP errors about them.
    """

    def __init__(self, address: Address, *, full: bool = True, vrf: int = 0) -> None:
        self.version = address.version
        self._socket, raw = _open(address.version)
        try:
            if vrf:
                enter_vrf(self._socket, vrf)
            if not full:
                ignore_path_mtu(self._socket)
            else:
                probe_path(self._socket)
            with suppress(OSError):  # then a reply's age is unknown
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            want_errors(self._socket)
            self._socket.bind((str(address), 0))
        except BaseException:
            self._socket.close()
            raise
        own = secrets.randbelow(MAX_IDENT) + 1
        self.ident = own if raw else int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        """Return the descriptor, which is readable if there are replies or errors."""
        return self._socket.fileno()

    def send(self, target: Address, sequence: int, payload: bytes, interface: int = 0) -> None:
        """Send an echo request, through the interface of this index (0: by route). OSError is the kernel's."""
        message = build_request(self.version, Echo(self.ident, sequence, payload))
        ancillary: list[tuple[int, int, bytes]] = []
        if interface and self.version == 4:
            ancillary.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i8x", interface)))
        elif interface:
            ancillary.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16xi", interface)))
        send_past_errors(self._socket, message, ancillary, (str(target), 0))

    def replies(self) -> Iterator[Reply]:
        """Yield the replies to this socket's requests that have arrived, MAX_REPLIES at most."""
        for _ in range(MAX_REPLIES):
            try:
                message, ancillary, _, source = self._socket.recvmsg(_MAX_LEN, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # an error of the queue, which is also returned here once
                continue
            echo = parse_reply(self.version, message)
            if echo is not None and echo.ident == self.ident:
                yield Reply(ip_address(source[0].partition("%")[0]), echo, _age_s(ancillary))

    def failures(self) -> Iterator[tuple[Failure, Echo]]:
        """Yield ICMP errors for requests, each with the request as far as it is quoted; send() raises local errors."""
        for failure in take_errors(self._socket):
            echo = parse_quoted_request(self.version, failure.quoted)
            if failure.offender is not None and echo is not None and echo.ident == self.ident:
                yield failure, echo

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def payload_len(version: int, packet_len: int) -> int:
    """Return the payload, in bytes, of an echo request that makes a packet of `packet_len` bytes."""
    return packet_len - IP_LEN[version] - HDR_LEN


def _open(version: int) -> tuple[socket.socket, bool]:
    """Return a socket, and whether it is a raw one."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    proto = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with suppress(OSError):  # EACCES: not in the group; EPROTONOSUPPORT: not in this kernel
        return socket.socket(family, socket.SOCK_DGRAM, proto), False
    try:
        sock = socket.socket(family, socket.SOCK_RAW, proto)
    except OSError as exc:
        allowed = " ".join(_RANGE.read_text().split()) if _RANGE.exists() else "unknown"
        cause = (
            f"net.ipv4.ping_group_range is {allowed}, which does not let this process ping, and it has no CAP_NET_RAW"
        )
        remedy = (
            'sysctl -w net.ipv4.ping_group_range="0 2147483647", as systemd/sysctl.d has it; or set probe.interval_s: 0'
        )
        raise StartError(cause, remedy) from exc
    if version == 4:
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, _ONLY_REPLIES[4])
    else:
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, _ONLY_REPLIES[6])
    return sock, True


def _age_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Seconds since the kernel received what recvmsg() returned; 0 without a time stamp."""
    for level, kind, stamp in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(stamp) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(stamp)
            return max((time.time_ns() - int(seconds) * 10**9 - int(nanoseconds)) * 1e-9, 0.0)
    return 0.0
