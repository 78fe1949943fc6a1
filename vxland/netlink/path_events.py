"""Events after which packets to other nodes may leave through another interface, from the rtnetlink multicast groups.

An event is only a reason to look routes up again. Routes change without an event when a link goes down or up; that is
one of the link. Ignored are routes into the overlay device, of which each lease has one, our own requests, and links
other than those in use: on a node with many pods, interfaces come and go all the time.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Callable, Collection
from typing import Final

from vxland.netlink.message import (
    HDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTMSG,
    attributes,
    messages,
)
from vxland.netlink.parse import index_of, may_lead_to_nodes
from vxland.netlink.rtnl import CHUNK, open_events, refusal, wait_readable

_GROUPS: Final = 0x1 | 0x40 | 0x80  # RTMGRP_LINK, IPV4_ROUTE, IPV4_RULE
_RULES: Final = frozenset({32, 33})  # RTM_NEWRULE, RTM_DELRULE
_RTA_OIF: Final = 4
_CHUNKS: Final = 64  # read before other tasks run


class PathEvents:
    """Events of this thread's network namespace. StartError if no socket can be opened."""

    def __init__(self) -> None:
        self._socket = open_events(_GROUPS, "routes")

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    async def wait(self, own: int, read_scope: Callable[[], tuple[int, Collection[int]]]) -> None:
        """Return after an event since the last call that portid `own` did not cause. KernelRefusedError.

        `read_scope()` returns the index of the overlay device, and those of the interfaces that lead to other nodes.
        """
        descriptor = self._socket.fileno()  # kept: close() may come before the cancelled wait ends
        while True:
            found = self._drain(own, *read_scope())
            if found:
                return
            if found is None:
                await asyncio.sleep(0)
                continue
            await wait_readable(descriptor)

    def _drain(self, own: int, overlay: int, used: Collection[int]) -> bool | None:
        """Read events; return whether one of them matters, None if more may wait."""
        matters = False
        for _ in range(_CHUNKS):
            try:
                chunk = self._socket.recv(CHUNK)
            except BlockingIOError:
                return matters
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise refusal("route events", exc.errno or errno.EIO) from exc
                matters = True  # any of the lost events may have mattered
                continue
            if not matters:
                matters = any(
                    _matters(kind, body, overlay, used) for kind, _, _, port, body in messages(chunk) if port != own
                )
        return matters or None


def _matters(kind: int, message: bytes, overlay: int, used: Collection[int]) -> bool:
    if kind in {RTM_NEWLINK, RTM_DELLINK}:
        return index_of(message) in used
    if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
        index = attributes(message, HDR.size + RTMSG.size).get(_RTA_OIF, b"")
        return may_lead_to_nodes(message) and int.from_bytes(index, sys.byteorder) != overlay
    return kind in _RULES
