"""The file descriptors of one device: a TAP queue and a receiving socket for each worker, and the shared senders.

SO_REUSEPORT spreads the peers' flows over the receiving sockets. The sending sockets are shared, so a flow keeps its
source port on whichever queue its frames arrive. Descriptors have names, under which a service manager keeps them for
the next process (forwarding/io/fdstore.py).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

from vxland.config import Settings
from vxland.forwarding.counts import SocketQueue
from vxland.forwarding.io import tap, udp
from vxland.forwarding.io.fdstore import Mismatch, Role, TakeFd, name_of, nothing
from vxland.forwarding.io.tap import Tap, claim
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.pump import COMPILED
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address


def expected(settings: Settings, underlay: Underlay, public: Address) -> dict[str, Mismatch]:
    """Return the names of the descriptors that these settings can take over, each with the check whether it fits.

    `public` is the address that peers send to; it may be the underlay's. Sockets of an underlay elsewhere are not
    among them: the program that starts vxland passes them each time (forwarding/io/underlay_sockets.py).
    """
    device, count = settings.device, _worker_count(settings)
    queue = partial(tap.mismatch, name=device, multi=count > 1)
    queues: dict[str, Mismatch] = {name_of("tap", device, number): queue for number in range(count)}
    if underlay.elsewhere:
        return queues
    receiver = partial(udp.mismatch, port=settings.overlay.port, vrf=underlay.vrf)
    sender = partial(udp.mismatch, address=underlay.address, vrf=underlay.vrf)
    addresses: dict[Role, Address] = {"receive": underlay.address}
    if public != underlay.address:
        addresses["public"] = public
    senders = udp.sender_count(settings.outer, settings.underlay.source_ports)
    return {
        **queues,
        **{
            name_of(role, device, number): partial(receiver, address=address)
            for role, address in addresses.items()
            for number in range(count)
        },
        **{name_of("send", device, number): sender for number in range(senders)},
    }


class Endpoints:
    """TAP queues and sockets. Takes over those that `take` has from an earlier process, and opens the others.

    Raises StartError, with the cause and a remedy.
    """

    def __init__(self, settings: Settings, underlay: Underlay, take: TakeFd = nothing) -> None:
        self.count = _worker_count(settings)
        self._device = settings.device
        self._wanted = settings.datapath.offloads
        self._public: list[socket.socket] = []
        with ExitStack() as stack:
            stack.enter_context(closing(claim(self._device)))
            stack.callback(self._close_public)
            self.taps = [
                stack.enter_context(closing(self.open_tap(take("tap", number)))) for number in range(self.count)
            ]
            first = Udp(
                underlay.address,
                settings.overlay.port,
                settings.underlay.source_ports,
                COMPILED,
                self.count > 1,
                take,
                settings.outer,
                underlay.vrf,
                segment=self._wanted.wants("udp_segment"),
                gro=self._wanted.wants("udp_gro"),
            )
            self.sockets = [stack.enter_context(closing(first))]
            self.sockets += [
                stack.enter_context(closing(first.sibling(take("receive", number)))) for number in range(1, self.count)
            ]
            self._resources = stack.pop_all()
        self.source_ports = [int(sender.getsockname()[1]) for sender in first.senders]
        self.heed_path_mtus = first.heed_path_mtus
        self.keep = self.taps[0].keep  # its descriptor number survives a new device: Worker.take_tap()
        self.offloads = {
            "tso": self.taps[0].tso,
            "uso": self.taps[0].uso,
            "udp_segment": first.max_datagrams,
            "udp_gro": first.gro,
            "join_tcp": COMPILED and self._wanted.wants("join_tcp"),
            "join_udp": COMPILED and self._wanted.wants("join_udp") and self.taps[0].takes_udp,
        }
        """The offloads as probed now; `udp_segment` is the largest number of datagrams in one send."""

    def close(self) -> None:
        """Close sockets and TAP queues. The device stays after keep()."""
        self._resources.close()

    @property
    def descriptors(self) -> Mapping[str, int]:
        """The descriptors that a later process can take over, by name."""
        first = self.sockets[0]
        fds = {
            "tap": [each.fd for each in self.taps],
            "receive": [each.receiver.fileno() for each in self.sockets],
            "send": [each.fileno() for each in first.senders],
            "public": [each.fileno() for each in self._public],
        }
        roles: tuple[Role, ...] = ("tap", "receive", "send", "public")
        return {name_of(role, self._device, number): fd for role in roles for number, fd in enumerate(fds[role])}

    def open_tap(self, inherited: int | None = None) -> Tap:
        """Open one more queue of the device, with the configured offloads; the caller closes it."""
        tso, uso = self._wanted.wants("tso"), self._wanted.wants("uso")
        return Tap(self._device, COMPILED, self.count > 1, inherited, tso=tso, uso=uso)

    def tap_mismatch(self, fd: int) -> str:
        """Return why this queue does not belong to the TAP of that name in this namespace; "" if it does."""
        try:
            return tap.mismatch(fd, self._device, self.count > 1)
        except OSError as exc:
            return exc.strerror or str(exc)

    def open_public(self, address: Address, take: TakeFd = nothing) -> list[socket.socket]:
        """Open a receiving socket for each worker at a second address, which this node need not have yet.

        Raises OSError or StartError if the address cannot be bound; no socket stays open then.
        """
        opened: list[socket.socket] = []
        try:
            for number in range(self.count):
                inherited = take("public", number)
                opened.append(self.sockets[0].public(address, inherited, first=number == 0, shared=self.count > 1))
        except BaseException:
            for sock in opened:
                sock.close()
            raise
        return opened

    def replace_public(self, opened: Sequence[socket.socket]) -> None:
        """Own these sockets of open_public(), and close the previous ones, which no worker reads any more."""
        self._close_public()
        self._public = list(opened)

    def queues(self) -> list[SocketQueue]:
        """Return the receiving sockets' queues; none if the kernel does not report them."""
        receivers = [*(each.receiver for each in self.sockets), *self._public]
        found = [udp.receive_queue(receiver) for receiver in receivers]
        return [SocketQueue(*queue) for queue in found if queue is not None]

    def _close_public(self) -> None:
        for sock in self._public:
            sock.close()


def _worker_count(settings: Settings) -> int:
    return settings.datapath.worker_count() if COMPILED else 1
