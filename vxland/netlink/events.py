"""Events of links, addresses, routes and neighbours from the rtnetlink multicast groups.

An event is only a reason to read again, so its content is never replayed. Our own events are skipped (they carry the
portid of our request socket), and an overrun is an event like any other.
"""

from __future__ import annotations

import asyncio
import errno

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
)

from vxland.model.errors import StartError
from vxland.model.shortage import shortage
from vxland.netlink.message import messages
from vxland.netlink.parse import RouteScope
from vxland.netlink.rtnl import CHUNK, open_socket, refusal

_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
_KINDS = frozenset(
    {
        RTM_NEWLINK,
        RTM_DELLINK,
        RTM_NEWADDR,
        RTM_DELADDR,
        RTM_NEWROUTE,
        RTM_DELROUTE,
        RTM_NEWNEIGH,
        RTM_DELNEIGH,
    }
)
_CHUNKS = 64  # read before other tasks run


class Events:
    """The events of this thread's network namespace that concern `scope`, or all events. StartError: no socket."""

    def __init__(self) -> None:
        self.scope: RouteScope | None = None
        try:
            self.socket = open_socket(_GROUPS)
        except OSError as exc:
            cause = f"cannot watch netlink: {exc.strerror}"
            raise shortage(exc, "a netlink socket") or StartError(cause, "allow AF_NETLINK sockets") from exc

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self.socket.close()

    async def wait_change(self, own: int) -> None:
        """Return after an event since the last call that portid `own` did not cause. Cancels cleanly."""
        loop = asyncio.get_running_loop()
        events = self.socket.fileno()  # kept: close() may come before the cancelled wait ends
        while not self._drain(own):
            readable = loop.create_future()
            loop.add_reader(events, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(events)

    def _drain(self, own: int) -> bool:
        """Empty the socket; return whether any event concerned us."""
        changed = False
        for _ in range(_CHUNKS):
            try:
                chunk = self.socket.recv(CHUNK)
            except BlockingIOError:
                return changed
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    name = "netlink events"
                    raise refusal(name, exc.errno or errno.EIO) from exc
                changed = True  # events were lost: any of them may have concerned us
                continue
            if not changed:
                changed = any(self._concerns(kind, body) for kind, _, _, port, body in messages(chunk) if port != own)
        return True  # more events wait: that is as good as one, and other tasks must run

    def _concerns(self, kind: int, body: bytes) -> bool:
        return kind in _KINDS and (self.scope is None or self.scope.concerns(kind, body))


def _resolve(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
