"""The four calls of the burst loop, as the interpreted gear makes them; syscalls.pxd has the compiled ones.

This is the one place where the gears differ: there a handle is a file descriptor, here it is the socket object,
and an error comes back as a negative errno in both. Payload is only ever referred to by a view.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from functools import lru_cache

from vxland.datapath.batch import Datagram
from vxland.datapath.table import Table
from vxland.wire.octets import Buffer

_ECN_MASK = 3
_CONTROL_LEN = socket.CMSG_SPACE(4)
_TOS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TOS),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
}


def read_frame(tap: int, buf: Buffer, at: int, room: int) -> int:
    """Read a virtio header and its frame to `at`; octets of both."""
    try:
        return os.readv(tap, [memoryview(buf)[at : at + room]])
    except OSError as exc:
        return -(exc.errno or 0)


def write_frame(tap: int, buf: Buffer, at: int, length: int) -> int:
    """Write the virtio header at `at` and its frame, `length` octets in all; octets written."""
    try:
        return os.writev(tap, [memoryview(buf)[at : at + length]])
    except OSError as exc:
        return -(exc.errno or 0)


def recv_datagram(handle: socket.socket, buf: Buffer, at: int, room: int, datagram: Datagram) -> int:
    """Receive a datagram's payload to `at` and fill in `datagram`; octets of payload."""
    try:
        length, control, flags, source = handle.recvmsg_into([memoryview(buf)[at : at + room]], _CONTROL_LEN)
    except OSError as exc:
        return -(exc.errno or 0)
    datagram.outer_src_hi, datagram.outer_src_lo = _halves(handle.family, source[0])
    datagram.truncated = flags & socket.MSG_TRUNC != 0
    datagram.ecn = int.from_bytes(control[0][2], sys.byteorder) & _ECN_MASK if control else 0
    return length


def send_datagram(handle: socket.socket, buf: Buffer, at: int, length: int, table: Table, vtep: int, ecn: int) -> int:
    """Send `length` octets at `at` to a VTEP with `ecn` in the outer header; octets sent."""
    payload = memoryview(buf)[at : at + length]
    try:
        if ecn == 0:
            return handle.sendto(payload, table.destinations[vtep])
        control = [(*_TOS[handle.family], struct.pack("=i", ecn))]
        return handle.sendmsg([payload], control, 0, table.destinations[vtep])
    except OSError as exc:
        return -(exc.errno or 0)


@lru_cache(maxsize=4096)
def _halves(family: int, address: str) -> tuple[int, int]:
    """An outer source as two 64-bit halves, IPv4 in the low one."""
    packed = socket.inet_pton(family, address.partition("%")[0]).rjust(16, b"\0")
    return int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")
