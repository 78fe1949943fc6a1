"""Exchanges of `vxlandctl test` with one peer's responder: datagrams, and a connection. Blocking, for a thread.

The sockets are bound to the node's own overlay address and follow the kernel's routes, so packets take the way of pods'
from flannel.1 on. Each wait is short, and ended() stops all of it within a second.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from secrets import token_bytes
from typing import Final

from vxland.kernel.kernel_drops import bad_checksums, bad_tcp_checksums
from vxland.kernel.sockets import probe_path
from vxland.kernel.tcp_info import retransmitted
from vxland.kernel.udp_checksum import accept_none, send_with
from vxland.model.lease import Address
from vxland.probes.path_checks import VARIANTS, Datagrams, Seen, Transfer, TransferEnd, Variant
from vxland.wire.path_check import (
    HDR_LEN,
    TOKEN_LEN,
    WITH_COUNTERS,
    WITHOUT_CHECKSUM,
    BadChecksums,
    Request,
    build_request,
    parse_reply,
)

TRIES: Final = 3
WAIT_S: Final = 1.0
"""Time for the answers to one try."""

CONNECT_S: Final = 4.0  # the kernel repeats a SYN after 1 and 3 s
TRANSFER_S: Final = 10.0
STALL_S: Final = 4.0
"""Time without a byte after which a connection stalls; the kernel sends a segment again four times meanwhile."""

_STEP_S: Final = 0.5
_CHUNK_LEN: Final = 1 << 16
_HEADERS_LEN: Final = {4: 20 + 8, 6: 40 + 8}  # IP and UDP


@dataclass(frozen=True, slots=True)
class Ends:
    """The overlay addresses of both nodes, and the responder's port."""

    own: Address
    peer: Address
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of both."""
        return socket.AF_INET if self.own.version == 4 else socket.AF_INET6


def exchange(
    ends: Ends, seen: Seen, content: bytes, ended: Callable[[], bool], turned: socket.socket | None = None
) -> Seen:
    """Return what was seen, with the outcome of the datagrams, and of a connection unless no responder is there.

    `turned` is a socket whose connection to this node's own address nat rules turn to the peer.
    """
    here = _counted_here(ends)
    silent = seen.reach.state == "unreachable"
    datagrams, there = exchange_datagrams(ends, seen.mtu, ended, 1 if silent else TRIES)
    if not datagrams.answered and (datagrams.refused or silent):
        return replace(seen, datagrams=datagrams)
    done = transfer(ends, content, ended)
    if turned is not None:
        seen = replace(seen, dnat=transfer(ends, content, ended, turned))
    bad_there = BadChecksums()
    if there is not None and (done.end != "done" or done.sent_again) and (now := ask_counters(ends, ended)) is not None:
        bad_there = _since(there, now)
    bad_here = _since(here, _counted_here(ends))
    return replace(seen, datagrams=datagrams, transfer=done, bad_there=bad_there, bad_here=bad_here)


def exchange_datagrams(
    ends: Ends, mtu: int, ended: Callable[[], bool], tries: int = TRIES
) -> tuple[Datagrams, BadChecksums | None]:
    """Send each variant until it is answered, `tries` times at most; return also the peer's counters, if they came."""
    try:
        sock = _datagram_socket(ends)
    except OSError as exc:
        return Datagrams(not_sent=exc.strerror or str(exc), full_len=mtu), None
    with sock:
        questions = _Questions(sock, mtu - _HEADERS_LEN[ends.own.version])
        for _ in range(tries):
            if ended() or questions.settled:
                break
            questions.send()
            until = time.monotonic() + WAIT_S
            while not ended() and not questions.settled and (left_s := until - time.monotonic()) > 0:
                questions.read(left_s)
    return questions.result(mtu), questions.counters


class _Questions:
    """The datagrams of one exchange, and their answers so far."""

    def __init__(self, sock: socket.socket, full_len: int) -> None:
        self.counters: BadChecksums | None = None
        self._sock = sock
        self._lengths = {name: full_len if form.full else HDR_LEN for name, form in VARIANTS.items()}
        self._sent: dict[bytes, Variant] = {}
        self._answered: set[Variant] = set()
        self._refused = False
        self._error = ""

    @property
    def settled(self) -> bool:
        """Whether all are answered, or the port is closed."""
        return len(self._answered) == len(VARIANTS) or (self._refused and not self._answered)

    def send(self) -> None:
        """Send each variant that has no answer yet, the full one last: behind it a smaller one would join its train."""
        for name in [name for name in VARIANTS if name not in self._answered]:
            token = token_bytes(TOKEN_LEN)
            self._sent[token] = name
            with self._errors():
                _send(self._sock, name, token, self._lengths[name])

    def read(self, left_s: float) -> None:
        """Take an answer or an error, if one comes in this time."""
        self._sock.settimeout(left_s)
        with self._errors():
            datagram = self._sock.recv(_CHUNK_LEN)
            reply = parse_reply(datagram)
            name = None if reply is None else self._sent.get(reply.token)
            if reply is not None and name is not None and len(datagram) == self._lengths[name]:
                self._answered.add(name)
                self.counters = reply.bad if name == "bare" and self.counters is None else self.counters

    def result(self, full_packet_len: int) -> Datagrams:
        """Return what happened."""
        error = "" if self._answered or self._refused else self._error
        return Datagrams(frozenset(self._answered), self._refused, error, full_packet_len)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Note an error of the kernel's, which may be that of an earlier datagram."""
        try:
            yield
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            self._refused = True
        except OSError as exc:
            self._error = exc.strerror or str(exc)


def ask_counters(ends: Ends, ended: Callable[[], bool]) -> BadChecksums | None:
    """Return the peer's counters of bad checksums; None if it does not answer."""
    with suppress(OSError), _datagram_socket(ends) as sock:
        for _ in range(TRIES):
            if ended():
                return None
            token = token_bytes(TOKEN_LEN)
            _send(sock, "bare", token, HDR_LEN)
            sock.settimeout(WAIT_S)
            with suppress(TimeoutError):
                reply = parse_reply(sock.recv(_CHUNK_LEN))
                if reply is not None and reply.token == token:
                    return reply.bad
    return None


def transfer(ends: Ends, content: bytes, ended: Callable[[], bool], turned: socket.socket | None = None) -> Transfer:
    """Connect, send the content, and compare what comes back; `turned` as in exchange()."""
    began = time.monotonic()
    back_len, sent_again, error = 0, 0, ""
    try:
        sock = turned or socket.socket(ends.family, socket.SOCK_STREAM)
    except OSError as exc:
        return Transfer("not_sent", exc.strerror or str(exc))
    with sock:
        end: TransferEnd = "silent"
        try:
            sock.settimeout(CONNECT_S)
            if turned is None:
                sock.bind((str(ends.own), 0))
            sock.connect((str(ends.peer if turned is None else ends.own), ends.port))
            end = "stalled"
            end, back_len = _echoed(sock, content, ended)
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            end = "refused"
        except OSError as exc:  # after connect() it is the connection's end: shutdown() after a reset has ENOTCONN
            broken = end == "stalled" or isinstance(exc, ConnectionError)
            end, error = "broken" if broken else "not_sent", exc.strerror or str(exc)
        with suppress(OSError):
            sent_again = retransmitted(sock)
    return Transfer(end, error, len(content), back_len, sent_again, time.monotonic() - began)


def _echoed(sock: socket.socket, content: bytes, ended: Callable[[], bool]) -> tuple[TransferEnd, int]:
    """Send and receive at once; return how it ended, and the number of bytes that came back."""
    sock.setblocking(False)
    left, back_len = memoryview(content), 0
    poll = select.poll()
    began = moved = time.monotonic()
    while (now := time.monotonic()) < min(began + TRANSFER_S, moved + STALL_S) and not ended():
        poll.register(sock, select.POLLIN | (select.POLLOUT if left else 0))
        poll.poll(_STEP_S * 1000)
        if left:
            with suppress(BlockingIOError):
                left = left[sock.send(left[:_CHUNK_LEN]) :]
                if not left:
                    sock.shutdown(socket.SHUT_WR)
        with suppress(BlockingIOError):
            chunk = sock.recv(_CHUNK_LEN)
            moved = now
            if chunk != content[back_len : back_len + len(chunk)]:
                return "changed", back_len + len(chunk)
            back_len += len(chunk)
            if not chunk:
                return ("done" if back_len == len(content) else "broken"), back_len
    return "stalled", back_len


def _datagram_socket(ends: Ends) -> socket.socket:
    sock = socket.socket(ends.family, socket.SOCK_DGRAM)
    try:
        probe_path(sock)
        accept_none(sock)
        sock.bind((str(ends.own), 0))
        sock.connect((str(ends.peer), ends.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, name: Variant, token: bytes, length: int) -> None:
    form = VARIANTS[name]
    flags = (0 if form.reply else WITHOUT_CHECKSUM) | (WITH_COUNTERS if name == "bare" else 0)
    send_with(sock, checksum=form.request)
    sock.send(build_request(Request(flags, token), length))


def _counted_here(ends: Ends) -> BadChecksums:
    return BadChecksums(bad_checksums(ends.own.version) or 0, bad_tcp_checksums() or 0)


def _since(before: BadChecksums, now: BadChecksums) -> BadChecksums:
    return BadChecksums(max(now.udp - before.udp, 0), max(now.tcp - before.tcp, 0))
