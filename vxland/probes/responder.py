"""The responder to `vxlandctl test` of other nodes: echoes what they send to this node's overlay address.

It listens on UDP and TCP `port` of flannel.1 alone. Only addresses that a node has are let in (kernel/source_bits.py),
and only known nodes get an answer (responder_limits.py). An answer is never longer than its request, and goes to its
sender: a datagram is returned as it came, and a connection gets the bytes that it sent.

It shares the event loop with the control plane, and frames never wake it. A flood costs the loop READS datagrams in
PAUSE_S; the kernel drops what does not fit into the socket's small queue. A connection ends after CONNECTION_S or
CONNECTION_LEN bytes.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from struct import pack
from typing import Final

import structlog

from vxland.kernel.kernel_drops import bad_checksums, bad_tcp_checksums
from vxland.kernel.source_bits import attach
from vxland.kernel.udp_checksum import accept_none, send_with
from vxland.model.lease import Address, Subnet
from vxland.probes.responder_limits import ResponderLimits
from vxland.probes.together import run_together
from vxland.wire.path_check import WITH_COUNTERS, WITHOUT_CHECKSUM, BadChecksums, build_reply, parse_request

READS: Final = 32
PAUSE_S: Final = 0.05
ACCEPT_S: Final = 0.01
CONNECTION_S: Final = 20.0
CONNECTION_LEN: Final = 1 << 20
REOPEN_S: Final = 2.0
"""Time between attempts to open the sockets: another program may have the port, or the device no address."""

_STARTING: Final = "it has not started yet"
_QUEUE_LEN: Final = 1 << 16  # bytes of a socket's queues
_BACKLOG: Final = 16
_CHUNK_LEN: Final = 1 << 14
_SYN_ACKS_AGAIN: Final = 1  # the fewest that the kernel accepts; by default 5, for a sender that may be forged
_USER_TIMEOUT_MS: Final = 5000  # then the kernel sends what is not acknowledged no more: tcp(7)

log = structlog.get_logger()


class Responder:
    """The responder of one device, at its overlay addresses by IP version, `bases`. Port 0: it is off."""

    def __init__(self, device: str, bases: Mapping[int, Address], port: int) -> None:
        self.off = _STARTING if port else "probe.responder is off"
        """The reason why it does not listen; empty if it does."""
        self.answered = 0
        """Datagrams and connections that were answered."""
        self.refused = 0
        """Those that were not: of unknown senders, or too many."""
        self._device = device
        self._bases = bases
        self._port = port
        self._limits = ResponderLimits()
        self._lengths = {4: Counter[int](), 6: Counter[int]()}  # the peers' subnets by IP version and prefix length
        self._sockets: list[tuple[socket.socket, int]] = []
        self._reopen = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    def follow(self, *, removed: Collection[Subnet] = (), added: Collection[Subnet] = ()) -> None:
        """Answer the nodes of the added subnets too, and those of the removed ones no more."""
        self._limits.follow(removed=removed, added=added)
        before = {version: lengths.copy().keys() for version, lengths in self._lengths.items()}
        for subnet in added:
            self._lengths[subnet.version][subnet.prefixlen] += 1
        for subnet in removed:
            lengths = self._lengths[subnet.version]
            lengths[subnet.prefixlen] -= 1
            if not lengths[subnet.prefixlen]:
                del lengths[subnet.prefixlen]
        for sock, version in self._sockets:
            if self._lengths[version].keys() != before[version]:
                with suppress(OSError):
                    attach(sock, version, self._lengths[version])

    def renewed(self) -> None:
        """Listen on the new device of the name."""
        self._reopen.set()

    async def run(self, ready: asyncio.Event) -> None:
        """Answer until cancelled, once the device has its addresses."""
        await ready.wait()
        while self._port:
            self._reopen.clear()
            with ExitStack() as stack:
                try:
                    self._open(stack)
                except OSError as exc:
                    self._set_off(f"port {self._port} of {self._device}: {exc.strerror or exc}")
                else:
                    self._set_off("")
                    await self._serve()
                    continue
            with suppress(TimeoutError):
                async with asyncio.timeout(REOPEN_S):
                    await self._reopen.wait()
        await asyncio.Event().wait()

    def _open(self, stack: ExitStack) -> None:
        """Open a UDP and a listening TCP socket at each address of the device. OSError."""
        if not self._bases:
            raise OSError("the device has no address")
        stack.callback(self._sockets.clear)
        for version, address in self._bases.items():
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = stack.enter_context(socket.socket(family, kind))
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode())
                for queue in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    sock.setsockopt(socket.SOL_SOCKET, queue, _QUEUE_LEN)
                attach(sock, version, self._lengths[version])
                if kind is socket.SOCK_DGRAM:
                    accept_none(sock)
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections in TIME_WAIT
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _SYN_ACKS_AGAIN)
                sock.bind((str(address), self._port))
                if kind is socket.SOCK_STREAM:
                    sock.listen(_BACKLOG)
                self._sockets.append((sock, version))

    async def _serve(self) -> None:
        """Answer until the device is made again."""
        jobs = [
            self._answer(sock, version) if sock.type == socket.SOCK_DGRAM else self._accept(sock)
            for sock, version in self._sockets
        ]
        try:
            await run_together(self._renewal(), *jobs)
        finally:
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _renewal(self) -> None:
        await self._reopen.wait()

    async def _answer(self, sock: socket.socket, version: int) -> None:
        """Answer datagrams, READS in PAUSE_S at most."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        while True:
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
            readable.clear()
            for _ in range(READS):
                try:
                    datagram, source = sock.recvfrom(_QUEUE_LEN)
                except BlockingIOError:
                    break
                except OSError:
                    continue
                self._reply(sock, version, datagram, source)
            else:
                await asyncio.sleep(PAUSE_S)

    def _reply(self, sock: socket.socket, version: int, datagram: bytes, source: tuple[str, int]) -> None:
        request = parse_request(datagram)
        if request is None or not self._limits.may_answer(ip_address(source[0]), time.monotonic()):
            self.refused += 1
            return
        bad = BadChecksums()
        if request.flags & WITH_COUNTERS:
            bad = BadChecksums(bad_checksums(version) or 0, bad_tcp_checksums() or 0)
        with suppress(OSError):  # a full queue, or a route that is gone
            send_with(sock, checksum=not request.flags & WITHOUT_CHECKSUM)
            sock.sendto(build_reply(datagram, bad), source)
            self.answered += 1

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections, one in ACCEPT_S at most and none while there are enough."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ACCEPT_S)
            if self._limits.full:
                continue
            try:
                sock, source = await loop.sock_accept(listener)
            except OSError:  # it was reset already, or descriptors are short
                await asyncio.sleep(PAUSE_S)
                continue
            sender = ip_address(source[0])
            if not self._limits.may_connect(sender):
                self.refused += 1
                _abort(sock)
                continue
            self.answered += 1
            connection = asyncio.create_task(self._echo(sock, sender))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _echo(self, sock: socket.socket, sender: Address) -> None:
        """Return what arrives, until the end of the connection or of its limits."""
        loop, left = asyncio.get_running_loop(), CONNECTION_LEN
        try:
            async with asyncio.timeout(CONNECTION_S):
                while left and (chunk := await loop.sock_recv(sock, min(_CHUNK_LEN, left))):
                    left -= len(chunk)
                    await loop.sock_sendall(sock, chunk)
        except (OSError, TimeoutError):
            _abort(sock)
        finally:
            sock.close()
            self._limits.closed(sender)

    def _set_off(self, why: str) -> None:
        """Note whether it listens, and log that it cannot, or can again."""
        if why and why != self.off:
            log.warning("responder_off", device=self._device, cause=why, retry_s=REOPEN_S)
        elif self.off not in {"", _STARTING} and not why:
            log.info("responder_on", device=self._device, port=self._port)
        self.off = why


def _abort(sock: socket.socket) -> None:
    """Close a connection at once, without a word to its sender but RST."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
    sock.close()
