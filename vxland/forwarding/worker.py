"""One worker of the data path: a thread with an event loop, which wakes one pump for its TAP queue and its sockets.

Other threads call its public methods; changes of its readers run on its own thread, between two bursts.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from concurrent.futures import Future

from vxland.forwarding.io.tap import Tap
from vxland.forwarding.io.udp import Udp
from vxland.forwarding.pump import COMPILED, Pump
from vxland.kernel.event_loop import new_event_loop
from vxland.kernel.scheduling import give_way


class Worker:
    """One thread that wakes one pump."""

    def __init__(self, number: int, tap: Tap, udp: Udp, pump: Pump) -> None:
        self.pump = pump
        self.tap = tap.fd
        self.lost = False  # its TAP queue; changed on this worker's thread
        self._receivers = {udp.receiver.fileno(): pump.on_udp_readable}
        self._receiving = False  # whether they are read; changed on this worker's thread
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)

    def start(self, *, receive: bool) -> None:
        """Move frames from now on: those of the TAP and, if `receive` is true, those of the receiving socket."""
        self._loop.add_reader(self.tap, self.pump.on_tap_readable)
        if receive:
            self._receive()
        self._thread.start()

    def receive(self) -> None:
        """Read the receiving sockets from now on."""
        self._loop.call_soon_threadsafe(self._receive)

    def pause(self) -> None:
        """Let datagrams wait in the receiving sockets until receive()."""
        self._loop.call_soon_threadsafe(self._pause)

    def _receive(self) -> None:
        self._receiving = True
        for receiver, wake in self._receivers.items():
            self._loop.add_reader(receiver, wake)

    def _pause(self) -> None:
        self._receiving = False
        for receiver in self._receivers:
            self._loop.remove_reader(receiver)

    async def serve(self, public: socket.socket | None) -> None:
        """Read this second receiving socket instead of the previous one, which the caller may then close."""
        turn: Future[None] = Future()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._serve, public, turn)
        else:
            self._serve(public, turn)
        await asyncio.wrap_future(turn)

    def _serve(self, public: socket.socket | None, turn: Future[None]) -> None:
        """Do so on this worker's thread, between two bursts."""
        receiving = self._receiving
        self._pause()
        first, *_ = self._receivers.items()
        self._receivers = dict([first] if public is None else [first, (public.fileno(), self.pump.on_public_readable)])
        self.pump.serve(public)
        if receiving:
            self._receive()
        _answer(turn)

    def close(self) -> None:
        """Finish the current burst, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def answer(self) -> None:
        """Return when the thread, once started, has had a turn for something else than frames."""
        turn: Future[None] = Future()
        self._loop.call_soon_threadsafe(_answer, turn)
        await asyncio.wrap_future(turn)

    async def drained(self) -> tuple[int, int]:
        """Return the times at which nothing waited in the TAP queue, and in the sockets; 0 where something waits now.

        The thread is between two bursts then, so all frames that were queued before have been moved. The clock is the
        monotonic one, in nanoseconds.
        """
        turn: Future[tuple[int, int]] = Future()
        self._loop.call_soon_threadsafe(self._drained, turn)
        return await asyncio.wrap_future(turn)

    def _drained(self, turn: Future[tuple[int, int]]) -> None:
        now, poller = time.monotonic_ns(), select.poll()
        for queue in (self.tap, *self._receivers):
            poller.register(queue, select.POLLIN)
        waiting = {queue for queue, _ in poller.poll(0)}
        if turn.set_running_or_notify_cancel():
            turn.set_result((0 if self.tap in waiting else now, 0 if waiting - {self.tap} else now))

    def leave_tap(self) -> None:
        """Stop reading the lost TAP, and the sockets, whose frames need it. Call it on this worker's thread."""
        self.lost = True
        self._loop.remove_reader(self.tap)
        self._pause()

    async def take_tap(self, queue: int) -> None:
        """Continue with another queue under the previous descriptor number; the caller may then close `queue`."""
        turn: Future[None] = Future()
        self._loop.call_soon_threadsafe(self._take_tap, queue, turn)
        await asyncio.wrap_future(turn)

    def _take_tap(self, queue: int, turn: Future[None]) -> None:
        """Do so on this worker's thread, between two bursts."""
        self._loop.remove_reader(self.tap)  # before its number means another queue
        try:
            os.dup2(queue, self.tap, inheritable=False)
        except OSError as exc:
            turn.set_exception(exc)
            return
        self.pump.renew_tap()
        self.lost = False
        self._loop.add_reader(self.tap, self.pump.on_tap_readable)
        _answer(turn)

    def _run(self) -> None:
        if COMPILED:  # interpreted, a worker that waits for a CPU would hold the interpreter's lock meanwhile
            give_way()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.remove_reader(self.tap)
        self._pause()


def _answer(turn: Future[None]) -> None:
    if turn.set_running_or_notify_cancel():
        turn.set_result(None)
