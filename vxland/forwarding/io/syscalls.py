"""System calls of the burst loop in the interpreted gear; syscalls.pxd has those of the compiled gear.

Only here do the gears differ: there a handle is a file descriptor, here it is the socket object. In both an error is
returned as a negative errno. Payload is only referred to by views.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from functools import lru_cache

from vxland.datapath.datagram import Datagram, segment_size_of
from vxland.datapath.table import Table
from vxland.datapath.train import Gather, Train
from vxland.wire.bigendian import Buffer

_ECN_MASK = 3
_CONTROL_LEN = 4 * socket.CMSG_SPACE(4)
_FRAGSIZE = {(socket.IPPROTO_IP, 25), (socket.IPPROTO_IPV6, 77)}  # IP_RECVFRAGSIZE, linux/in.h and in6.h
_MARK = (socket.SOL_SOCKET, socket.SO_MARK)
_UDP_SEGMENT = 103  # linux/udp.h
_TOS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
}
_ECN = set(_TOS.values())
_TTL = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
}


def now_us() -> int:
    """Return the monotonic clock in microseconds."""
    return time.monotonic_ns() // 1000


def now_ns() -> int:
    """Return the time in nanoseconds since 1970."""
    return time.time_ns()


def fence() -> None:
    """Order the memory accesses before and after, as other threads see them; the GIL does it here."""


def copy_between(to: Buffer, to_at: int, buf: Buffer, at: int, length: int) -> None:
    """Copy bytes from one buffer to another."""
    to[to_at : to_at + length] = buf[at : at + length]


def read_frame(tap: int, buf: Buffer, at: int, room: int) -> int:
    """Read a virtio header and its frame to `at`; return the bytes of both."""
    try:
        return os.readv(tap, [memoryview(buf)[at : at + room]])
    except OSError as exc:
        return -(exc.errno or 0)


def write_run(tap: int, buf: Buffer, run: Gather) -> int:
    """Write a virtio header and its frame, gathered from ranges; return the bytes written."""
    try:
        return os.writev(tap, _views(buf, run, 0, run.count))
    except OSError as exc:
        return -(exc.errno or 0)


def recv_datagram(handle: socket.socket, buf: Buffer, at: int, room: int, datagram: Datagram) -> int:
    """Receive a datagram's payload to `at` and fill in `datagram`; bytes of payload."""
    try:
        length, control, flags, source = handle.recvmsg_into([memoryview(buf)[at : at + room]], _CONTROL_LEN)
    except OSError as exc:
        return -(exc.errno or 0)
    datagram.outer_src_hi, datagram.outer_src_lo = _halves(handle.family, source[0])
    datagram.port = source[1]
    datagram.truncated = flags & socket.MSG_TRUNC != 0
    datagram.untold = flags & socket.MSG_CTRUNC != 0
    datagram.ecn = datagram.stride = datagram.segment_size = 0
    datagram.fragmented = False
    for level, kind, value in control:
        if (level, kind) in _FRAGSIZE:
            datagram.fragmented = True
        elif level == socket.IPPROTO_UDP:
            datagram.stride = int.from_bytes(value, sys.byteorder)
        elif (level, kind) == _MARK:
            datagram.segment_size = segment_size_of(int.from_bytes(value, sys.byteorder))
        elif (level, kind) in _ECN:
            datagram.ecn = int.from_bytes(value, sys.byteorder) & _ECN_MASK
    return length


def send_ranges(handle: socket.socket, buf: Buffer, train: Train, first: int, count: int, table: Table) -> int:
    """Send `count` ranges of a train, from `first` on, as datagrams of its size each; bytes sent."""
    payload = _views(buf, train.ranges, first, count)
    destination = _destination(table.underlay_v6, table.outer_hi[train.vtep], table.outer_lo[train.vtep])
    control = []
    if train.marks != train.plain_marks:
        control.append((*_TOS[handle.family], struct.pack("=i", train.marks & 0xFF)))
        if train.marks >> 8:
            control.append((*_TTL[handle.family], struct.pack("=i", train.marks >> 8)))
    if sum(map(len, payload)) > train.size:
        control.append((socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", train.size)))
    try:
        return handle.sendmsg(payload, control, 0, (destination, table.port))
    except OSError as exc:
        return -(exc.errno or 0)


def _views(buf: Buffer, ranges: Gather, first: int, count: int) -> list[memoryview]:
    view = memoryview(buf)
    return [view[ranges.at[i] : ranges.at[i] + ranges.length[i]] for i in range(first, first + count)]


@lru_cache(maxsize=4096)
def _destination(v6: bool, hi: int, lo: int) -> str:
    """Return the address of two 64-bit halves, IPv4 in the low one."""
    packed = (hi << 64 | lo).to_bytes(16, "big")
    return socket.inet_ntop(socket.AF_INET6, packed) if v6 else socket.inet_ntop(socket.AF_INET, packed[12:])


@lru_cache(maxsize=4096)
def _halves(family: int, address: str) -> tuple[int, int]:
    """An outer source as two 64-bit halves, IPv4 in the low one."""
    packed = socket.inet_pton(family, address.partition("%")[0]).rjust(16, b"\0")
    return int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")
