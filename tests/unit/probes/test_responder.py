"""Responder and exchange on the loopback device: addresses 127.1.N.0 are nodes, and others pods.

A responder there has the same sockets, limits and filters as on flannel.1, and no root is needed.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from vxland.probes.exchange import Ends, ask_counters, exchange, exchange_datagrams, transfer
from vxland.probes.path_checks import VARIANTS, Datagrams, Seen
from vxland.probes.reach import Reach
from vxland.probes.responder import CONNECTION_LEN, Responder
from vxland.probes.responder_limits import CONNECTIONS_EACH

OWN, PEER, POD = (ip_address(text) for text in ("127.1.1.0", "127.1.2.0", "127.1.1.19"))
MTU = 1450


def free_port() -> int:
    """Return a port that is free for UDP and TCP at the peer."""
    with closing(socket.create_server((str(PEER), 0))) as server:
        return int(server.getsockname()[1])


def never() -> bool:
    """Return that the test goes on."""
    return False


@asynccontextmanager
async def responding(known: str = "127.1.1.0/24") -> AsyncIterator[tuple[Responder, Ends]]:
    """A responder that knows one node, or the nodes of another subnet."""
    port = free_port()
    responder = Responder("lo", {4: PEER}, port)
    responder.follow(added=[ip_network(known)])
    ready = asyncio.Event()
    ready.set()
    running = asyncio.create_task(responder.run(ready))
    try:
        while responder.off:
            assert not running.done(), running
            await asyncio.sleep(0)
        yield responder, Ends(OWN, PEER, port)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_every_datagram_and_a_connection() -> None:
    """A known node gets all answers, and its bytes back."""
    async with responding() as (responder, ends):
        seen = await asyncio.to_thread(
            exchange, ends, Seen(reach=Reach("reachable"), mtu=MTU), b"content" * 9999, never
        )
        assert seen.datagrams == Datagrams(frozenset(VARIANTS), full_len=MTU)
        assert (seen.transfer.end, seen.transfer.back_len) == ("done", 7 * 9999)
        assert responder.answered > len(VARIANTS)
        assert await asyncio.to_thread(ask_counters, ends, never) is not None


async def test_a_node_that_left() -> None:
    """Its address is a node's, but no lease has it: it gets no datagram, and its connection is reset."""
    async with responding("127.9.9.0/24") as (responder, ends):
        datagrams, counters = await asyncio.to_thread(exchange_datagrams, ends, MTU, lambda: responder.refused > 0)
        assert (datagrams.answered, counters) == (frozenset(), None)
        done = await asyncio.to_thread(transfer, ends, b"content", never)
        assert (done.end, done.back_len) == ("broken", 0)
        assert responder.answered == 0


class _Overtaken(socket.socket):
    """A socket whose send() returns only when the peer has reset the connection."""

    def send(self, *args: Any) -> int:  # noqa: ANN401  (as the method has it)
        """Send, and wait for the reset."""
        sent = super().send(*args)
        poll = select.poll()
        poll.register(self, 0)
        assert poll.poll(PATIENCE_S * 1000)
        return sent


async def test_a_reset_before_the_end_of_the_content() -> None:
    """The connection was broken. It is not this node's kernel that refuses to send."""
    async with responding("127.9.9.0/24") as (_, ends):
        sock = _Overtaken()
        sock.bind((str(OWN), 0))
        done = await asyncio.to_thread(transfer, Ends(PEER, OWN, ends.port), b"content", never, sock)
        assert (done.end, done.back_len) == ("broken", 0)


async def test_no_responder() -> None:
    """A closed port is known at once: no connection is tried."""
    ends = Ends(OWN, PEER, free_port())
    seen = await asyncio.to_thread(exchange, ends, Seen(reach=Reach("reachable"), mtu=MTU), b"content", never)
    assert seen.datagrams.refused
    assert seen.transfer.end == "not_tried"


async def test_a_connection_has_an_end() -> None:
    """No more than CONNECTION_LEN comes back, and a third connection of one node is reset."""
    async with responding() as (_, ends):

        def connected() -> socket.socket:
            sock = socket.socket()
            sock.bind((str(OWN), 0))
            sock.connect((str(PEER), ends.port))
            return sock

        def held() -> tuple[int, bool]:
            socks = [connected() for _ in range(CONNECTIONS_EACH)]
            for sock in socks:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            with closing(connected()) as further:
                try:
                    reset = further.recv(1) == b""
                except ConnectionResetError:
                    reset = True
            back_len, chunk = 1, bytes(1 << 12)
            try:
                while True:
                    socks[0].sendall(chunk)
                    got = socks[0].recv(1 << 12, socket.MSG_WAITALL)
                    back_len += len(got)
                    if len(got) < len(chunk):
                        break
            except ConnectionError:
                pass
            for sock in socks:
                sock.close()
            return back_len, reset

        back_len, reset = await asyncio.to_thread(held)
        assert reset
        assert back_len <= CONNECTION_LEN


async def test_switched_off() -> None:
    """Port 0 opens nothing, and the reason names the setting."""
    responder = Responder("lo", {4: PEER}, 0)
    ready = asyncio.Event()
    ready.set()
    running = asyncio.create_task(responder.run(ready))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not running.done()
    assert responder.off == "probe.responder is off"
    running.cancel()


async def test_cancelled_before_the_end() -> None:
    """Nothing more is sent once nobody wants the result."""
    datagrams, _ = await asyncio.to_thread(exchange_datagrams, Ends(OWN, PEER, free_port()), MTU, lambda: True)
    assert datagrams == Datagrams(full_len=MTU)


@pytest.mark.parametrize("answer", [b"contenT", b"cont", b""])
async def test_a_peer_that_changes_what_it_returns(answer: bytes) -> None:
    """Other bytes, fewer bytes, or none."""
    with closing(socket.create_server((str(PEER), 0))) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                sock.recv(100)
                sock.sendall(answer)

        serving = asyncio.create_task(asyncio.to_thread(serve))
        done = await asyncio.to_thread(transfer, Ends(OWN, PEER, server.getsockname()[1]), b"content", never)
        await serving
    assert done.end == ("changed" if answer == b"contenT" else "broken")
