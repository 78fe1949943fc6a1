"""Events of links, addresses, routes and neighbours from the rtnetlink multicast groups, as changes of a state.

Events of routes and neighbours are parsed, so that the reader of the state can follow them. The kernel delivers those
that a request causes before it acknowledges the request (IPv6 addresses apart: they come from a work queue). Some
changes come without an event of their own; the event that goes with them asks for a new read of everything. These are:

- the device goes down, or below an MTU of 1280: IPv4 routes (fib_disable_ip), and IPv6 ones if the sysctl
  skip_notify_on_dev_down is set;
- its MAC changes: neighbours, on old kernels (neigh_flush_dev);
- an address is deleted: IPv4 routes, all with the last address, else those that have it as their source;
- another link goes down: IPv4 routes over it. Here only routes to other nodes matter.

Events also wake the reader, except our own: they carry the portid of our request socket.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final

from vxland.model.kernel_state import KernelChanges, LinkState, Neighbour, RouteEvent
from vxland.netlink.dumps import InterfaceNames
from vxland.netlink.message import (
    AF_UNSPEC,
    HDR,
    IFINFOMSG,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    messages,
)
from vxland.netlink.parse import (
    IFF_UP,
    RouteScope,
    index_of,
    may_lead_to_nodes,
    parse_link,
    parse_neighbour,
    parse_route,
)
from vxland.netlink.rtnl import CHUNK, open_events, refusal, wait_readable

# linux/rtnetlink.h, RTMGRP_: link, neigh; ipv4 ifaddr, route; ipv6 ifaddr, route
_GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
_CHUNKS: Final = 64  # read before other tasks run
_DRAINS: Final = 1024  # times that, in one take(): others may make events as fast as they are read
_KEPT: Final = 1 << 14  # events; with more, a new read is cheaper
_NEW_LINK: Final = 0xFFFF_FFFF  # "all flags have changed"


class Events:
    """The events of this thread's network namespace that concern `scope`, or all events. StartError: no socket."""

    def __init__(self) -> None:
        self.scope: RouteScope | None = None
        self._changes = KernelChanges()
        self._awake = False  # an event that others caused has come since the last wake
        self.socket = open_events(_GROUPS, "netlink")

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self.socket.close()

    def lose(self) -> None:
        """Note that changes may have been missed: everything must be read again."""
        self._changes.everything = self._awake = True

    async def wait_change(self, own: int) -> None:
        """Return after an event that portid `own` did not cause, since the last call or take(). Cancels cleanly."""
        events = self.socket.fileno()  # kept: close() may come before the cancelled wait ends
        while True:
            if more := self._drain(own):
                await asyncio.sleep(0)  # also before a return: the caller may wait for the next at once
            if self._awake:
                self._awake = False
                return
            if more:
                continue
            await wait_readable(events)

    async def take(self, own: int) -> KernelChanges:
        """Return the changes since the last call, of every cause; later ones begin a new collection."""
        for _ in range(_DRAINS):
            if not self._drain(own):
                break
            await asyncio.sleep(0)
        taken, self._changes, self._awake = self._changes, KernelChanges(), False
        return taken

    def _drain(self, own: int) -> bool:
        """Empty the socket into the changes; return whether more events may wait, and other tasks must run first."""
        names = InterfaceNames()
        for _ in range(_CHUNKS):
            try:
                chunk = self.socket.recv(CHUNK)
            except BlockingIOError:
                return False
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    name = "netlink events"
                    raise refusal(name, exc.errno or errno.EIO) from exc
                self.lose()  # any of the lost events may have concerned us
                continue
            for kind, flags, _, port, body in messages(chunk):
                if self._note(kind, flags, body, names, foreign=port != own) and port != own:
                    self._awake = True
        return True

    def _note(self, kind: int, flags: int, body: bytes, names: InterfaceNames, *, foreign: bool) -> bool:
        """Add an event to the changes; return whether it concerns `scope`."""
        scope, changes = self.scope, self._changes
        if scope is None:
            changes.everything = True
            return True
        if kind in {RTM_NEWROUTE, RTM_DELROUTE}:
            may_lead = foreign and scope.underlay and may_lead_to_nodes(body)
            changes.paths |= may_lead
            route = parse_route(body, scope, names.name_of, body[HDR.size])
            if route is not None:
                replaces = bool(flags & NLM_F_REPLACE)
                self._keep(RouteEvent(route, gone=kind == RTM_DELROUTE, replaces=replaces))
            return may_lead or route is not None
        if kind in {RTM_NEWNEIGH, RTM_DELNEIGH}:
            neighbour = parse_neighbour(body, scope.index, body[HDR.size])
            if neighbour is not None:
                gone = kind == RTM_DELNEIGH
                self._keep(Neighbour(neighbour.address, None, permanent=False) if gone else neighbour)
            return neighbour is not None
        if kind in {RTM_NEWADDR, RTM_DELADDR}:
            if index_of(body) != scope.index:
                return False
            changes.device = True
            changes.everything |= kind == RTM_DELADDR
            return True
        return kind in {RTM_NEWLINK, RTM_DELLINK} and self._note_link(kind, body, scope)

    def _note_link(self, kind: int, body: bytes, scope: RouteScope) -> bool:
        ours = index_of(body) == scope.index
        if body[HDR.size] != AF_UNSPEC:  # of a bridge's port: it does not have the link's attributes
            self._changes.device |= ours
            return ours
        link = parse_link(body)
        if ours and kind == RTM_NEWLINK and link.name == scope.device:
            self._keep(LinkState(link.index, link.kind, link.mac, link.mtu, link.up, None))
            return True
        changed = IFINFOMSG.unpack_from(body, HDR.size)[2]
        leads = scope.underlay and bool(changed & IFF_UP) and changed != _NEW_LINK
        if ours or leads or link.name == scope.device:  # the last: a new device of the name, with another index
            self._changes.everything = True
            return True
        return False

    def _keep(self, event: RouteEvent | Neighbour | LinkState) -> None:
        if self._changes.everything:
            return
        self._changes.events.append(event)
        if len(self._changes.events) > _KEPT:
            self.lose()
