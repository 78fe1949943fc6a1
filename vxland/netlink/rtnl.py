"""One rtnetlink conversation at a time, on the running event loop, over a plain socket.

Requests are numbered here, and answers are matched by number. Messages are packed and parsed with struct (message.py,
ADR 16). After some messages of a dump, and between two batches of requests, the event loop runs other tasks.

A conversation that ends early (cancelled, overrun) leaves answers behind, and the kernel refuses a second dump while
one runs (EBUSY). So the socket is then replaced by a new one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TypeVar

from vxland.model.errors import StartError, VxlandError
from vxland.model.shortage import shortage
from vxland.netlink.message import (
    HDR,
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
    Request,
    attributes,
    messages,
    name_of,
)

T = TypeVar("T")

_ERRMSG_ATTR = 1  # NLMSGERR_ATTR_MSG

BUFFER = 1 << 20  # events of a moment in which thousands of routes change
CHUNK = 1 << 16  # the kernel fills 32 KiB at most
BATCH = 64  # requests per send at most; their acknowledgements fit the smallest receive buffer
_SEND_S = 0.002  # The kernel handles requests within the send. It needs longer for a route the more there are on one
# device (fib_find_info searches them all): 50 us at 5,000, 300 us at 20,000.
_PARSED = 128  # messages of a dump, in 2 ms at most, before other tasks run
_DUMP_TRIES = 3
_TIMEOUT_S = 10.0  # the kernel answers at once unless RTNL is stuck


class KernelRefusedError(VxlandError):
    """The kernel refused a netlink request; `code` is its errno."""

    def __init__(self, request: str, code: int, detail: str = "") -> None:
        super().__init__(f"{request}: {os.strerror(code)}" + (f" ({detail})" if detail else ""))
        self.code = code


def refusal(request: str, code: int, detail: str = "") -> VxlandError:
    """Return the error for errno `code`: StartError if a capability is missing, else KernelRefusedError."""
    if code == errno.EPERM:
        return StartError(f"{request}: {os.strerror(code)}", "run as root or grant CAP_NET_ADMIN")
    return KernelRefusedError(request, code, detail)


class Rtnl:
    """A request socket in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = _open()
        self._sequence = 0
        self._lock = asyncio.Lock()
        self.batch = BATCH
        """Requests per send now, so that the event loop is not held for long."""
        self.torn = False
        """Set if a dump may lack an entry: the kernel's state changed during each try. The caller clears it."""

    @property
    def requests(self) -> int:
        """Requests sent since start, each change counted by itself."""
        return self._sequence

    @property
    def portid(self) -> int:
        """Our netlink address: events that we caused carry it."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    async def dump(self, message: bytes, kind: int, parse: Callable[[bytes], T | None]) -> list[T]:
        """Return `parse` of every object that the kernel lists, without the Nones. KernelRefusedError.

        If something changes meanwhile, the kernel lists all again: `parse` sees objects twice.
        """
        for _ in range(_DUMP_TRIES):
            found, interrupted = await self._converse(name_of(kind), partial(self._dump, message, kind, parse))
            if not interrupted:
                return found
        self.torn = True
        return found

    async def get(self, message: bytes, kind: int) -> bytes:
        """Return the one object that `message` names. KernelRefusedError."""
        (answer,) = await self.query([message], kind)
        if isinstance(answer, VxlandError):
            raise answer
        return answer

    async def query(self, batch: Sequence[bytes], kind: int) -> list[bytes | VxlandError]:
        """Send up to BATCH queries, each a message without its header; return for each the object, or the error.

        KernelRefusedError: the socket failed.
        """
        return await self._converse(name_of(kind), partial(self._query, batch, kind)) if batch else []

    async def change(self, batch: Sequence[Request]) -> list[VxlandError | None]:
        """Send up to BATCH requests in order; return for each its error, or None.

        KernelRefusedError: the socket failed.
        """
        return await self._converse("netlink", partial(self._change, batch)) if batch else []

    async def _converse(self, name: str, conversation: Callable[[], Coroutine[None, None, T]]) -> T:
        async with self._lock:
            try:
                return await conversation()
            except VxlandError:  # a complete answer
                raise
            except BaseException as exc:
                self._socket.close()
                self._socket = _open()
                if isinstance(exc, OSError):  # TimeoutError is one, without an errno
                    raise refusal(name, exc.errno or errno.ETIMEDOUT) from exc
                raise

    async def _dump(self, message: bytes, kind: int, parse: Callable[[bytes], T | None]) -> tuple[list[T], bool]:
        sequence = self._next()
        self._send(_pack(message, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence))
        found: list[T] = []
        interrupted, parsed = False, 0
        while True:
            for answer, flags, number, _, body in messages(await self._receive()):
                if number != sequence:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if answer == NLMSG_ERROR:
                    raise _parse_error(name_of(kind), body) or KernelRefusedError(name_of(kind), errno.EPROTO)
                if answer == NLMSG_DONE:
                    return found, interrupted
                if (value := parse(body)) is not None:
                    found.append(value)
                parsed += 1
                if parsed % _PARSED == 0:
                    await asyncio.sleep(0)

    async def _query(self, batch: Sequence[bytes], kind: int) -> list[bytes | VxlandError]:
        first = self._sequence + 1
        self._send(b"".join([_pack(body, kind, NLM_F_REQUEST, self._next()) for body in batch]))
        outcome: list[bytes | VxlandError] = [b""] * len(batch)
        missing = len(batch)
        while missing:
            for answer, _, number, _, body in messages(await self._receive()):
                if not 0 <= number - first < len(batch):
                    continue
                refused = _parse_error(name_of(kind), body) if answer == NLMSG_ERROR else None
                outcome[number - first] = refused or body
                missing -= 1
        await asyncio.sleep(0)
        return outcome

    async def _change(self, batch: Sequence[Request]) -> list[VxlandError | None]:
        first = self._sequence + 1
        self._send(b"".join([_pack(r.body, r.kind, r.flags | NLM_F_REQUEST | NLM_F_ACK, self._next()) for r in batch]))
        outcome: list[VxlandError | None] = [None] * len(batch)
        missing = len(batch)
        while missing:
            for answer, _, number, _, body in messages(await self._receive()):
                if answer == NLMSG_ERROR and 0 <= number - first < len(batch):
                    outcome[number - first] = _parse_error(batch[number - first].subject, body)
                    missing -= 1
        await asyncio.sleep(0)
        return outcome

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, request: bytes) -> None:
        began = time.monotonic()
        self._socket.send(request)  # the kernel handles requests inside this call, which never blocks
        took = time.monotonic() - began
        if took > _SEND_S:
            self.batch = max(self.batch // 2, 1)
        elif self.batch < BATCH:
            self.batch += 1

    async def _receive(self) -> bytes:
        """Return the next chunk. If one has arrived, the event loop does not run in between."""
        try:
            return self._socket.recv(CHUNK)  # answers come while we send
        except BlockingIOError:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.get_running_loop().sock_recv(self._socket, CHUNK)


def open_socket(groups: int = 0, *, strict: bool = False) -> socket.socket:
    """Open a non-blocking socket in this thread's network namespace; `strict` has the kernel filter dumps. OSError."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            made.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        made.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        if strict:
            made.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        made.bind((0, groups))  # the kernel chooses the port id
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def open_events(groups: int, what: str) -> socket.socket:
    """Open a socket for the events of multicast groups (RTMGRP_) about `what`. StartError."""
    try:
        return open_socket(groups)
    except OSError as exc:
        cause = f"cannot watch {what}: {exc.strerror}"
        raise shortage(exc, "a netlink socket") or StartError(cause, "allow AF_NETLINK sockets") from exc


async def wait_readable(descriptor: int) -> None:
    """Return when a descriptor has something to read. Cancels cleanly, even if the descriptor is closed meanwhile."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(descriptor, _resolve, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _resolve(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _open() -> socket.socket:
    try:
        return open_socket(strict=True)
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            cause = f"cannot open a netlink socket: {exc.strerror}"
            raise shortage(exc, "a netlink socket") or StartError(cause, "allow AF_NETLINK sockets") from exc
    return open_socket()  # before Linux 4.20, and gVisor: dumps come unfiltered; the parsers filter anyway


def _pack(body: bytes, kind: int, flags: int, sequence: int) -> bytes:
    return HDR.pack(HDR.size + len(body), kind, flags, sequence, 0) + body


def _parse_error(subject: object, body: bytes) -> VxlandError | None:
    """The refusal in an NLMSG_ERROR; None for an acknowledgement (error 0). Kernel: netlink_ack."""
    _, _, flags, _, _ = HDR.unpack_from(body)
    (code,) = struct.unpack_from("=i", body, HDR.size)
    if code == 0:
        return None
    detail = b""
    if flags & NLM_F_ACK_TLVS:
        request_at = HDR.size + 4
        (request_len,) = struct.unpack_from("=I", body, request_at)
        at = request_at + (HDR.size if flags & NLM_F_CAPPED else (request_len + 3) & ~3)
        detail = attributes(body, at).get(_ERRMSG_ATTR, b"")
    return refusal(str(subject), -code, detail.rstrip(b"\0").decode(errors="replace"))
