"""IPsec policies of this network namespace, ip-xfrm(8): packets that bypass the IP stack would bypass them."""

from __future__ import annotations

import socket
import struct
from typing import Final

_NETLINK_XFRM: Final = 6
_GET_POLICY_INFO, _POLICY_INFO = 0x25, 0x24  # XFRM_MSG_GETSPDINFO and NEWSPDINFO, linux/xfrm.h
_REQUEST: Final = 1  # NLM_F_REQUEST
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_COUNTS: Final = struct.Struct("=3I")  # struct xfrmu_spdinfo: policies in, out, forwarded; those of sockets follow
_SPD_INFO: Final = 1


def has_policies() -> bool:
    """Return whether there is any policy for incoming or outgoing packets; False where the kernel has no IPsec."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM) as sock:
            sock.settimeout(1)
            sock.send(_HEADER.pack(_HEADER.size + 4, _GET_POLICY_INFO, _REQUEST, 1, 0) + bytes(4))
            answer = sock.recv(4096)
    except OSError:
        return False
    if len(answer) < _HEADER.size + 4 or _HEADER.unpack_from(answer)[1] != _POLICY_INFO:
        return False
    at = _HEADER.size + 4
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _SPD_INFO and length >= _ATTRIBUTE.size + _COUNTS.size:
            return any(_COUNTS.unpack_from(answer, at + _ATTRIBUTE.size))
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return False
