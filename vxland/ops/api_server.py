"""The server of the API socket: one request a connection, one JSON object a line, and an answer or a stream.

    request   {"command": "trace", "args": {"src": "10.244.0.2", "dst": "10.244.1.3"}}
    answer    {"result": ANYTHING}
    stream    {"item": ANYTHING}, as many lines as there are, then {"end": true}
    refusal   {"error": "one line for people", "usage": true or false}, in place of any of these lines

A command is an async function, or an async generator for a stream. Its keyword parameters are the request's `args`:
they are checked by their annotations (str, int, float, bool, and `| None`), and those with a default are optional.

    server.register("trace", trace)

A client that leaves ends its stream: the generator is closed. A client that does not read is disconnected after
STALL_S. Until then the data written for it is bounded, since a stream makes its next item when the client has read the
last one.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeAlias, get_args

import structlog

from vxland.model.errors import VxlandError
from vxland.ops.api_socket import PeerCredentials, SocketClaim, may_control, peer_credentials

MAX_REQUEST_LEN = 64 * 1024
MAX_CLIENTS = 32
MAX_REFUSED = 32  # further clients at a time that get an error
REQUEST_S = 10.0  # time in which a client must send its request
STALL_S = 30.0  # and must read an answer
CLOSE_S = 1.0  # and must close, once it has the whole answer

Command: TypeAlias = Callable[..., Coroutine[Any, Any, object] | AsyncGenerator[object]]

log = structlog.get_logger()


class RequestError(VxlandError):
    """An invalid request; the client's exit code is 2."""


class _GoneError(Exception):
    """The client has left, or does not read."""


class ApiServer:
    """Server of the registered commands. `credentials`, `request_s` and `stall_s` are for tests."""

    def __init__(
        self,
        path: Path,
        *,
        credentials: Callable[[int], PeerCredentials] = peer_credentials,
        request_s: float = REQUEST_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._path = path
        self._credentials = credentials
        self._request_s = request_s
        self._stall_s = stall_s
        self._commands: dict[str, tuple[Command, inspect.Signature]] = {}
        self._clients: set[asyncio.Task[None]] = set()

    def register(self, name: str, command: Command) -> None:
        """Serve `command` as `name`; the module's docstring lists the types of its parameters."""
        self._commands[name] = command, inspect.signature(command, eval_str=True)

    async def open(self) -> None:
        """Listen. StartError if the socket cannot be made: see SocketClaim."""
        self._claim = SocketClaim(self._path)
        try:
            self._server = await asyncio.start_unix_server(
                self._welcome, sock=self._claim.socket, limit=MAX_REQUEST_LEN
            )
        except BaseException:
            self._claim.close()
            raise

    async def close(self) -> None:
        """Disconnect all clients, and remove the socket."""
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._claim.close()

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS + MAX_REFUSED:  # too many even for an error
            writer.transport.abort()
            return
        client = asyncio.create_task(self._serve(reader, writer), name="control client")
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client; nothing that it does causes more than a log event."""
        writer.transport.set_write_buffer_limits(high=0)  # drain() returns when the kernel has all
        try:
            await self._answer(reader, writer)
            await _wait_closed(reader, writer)
        except _GoneError as exc:
            log.debug("control_client_gone", reason=str(exc))
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name: object = None
        try:
            if len(self._clients) > MAX_CLIENTS:
                _refuse(f"{MAX_CLIENTS} clients are being served: end one, or try again")
            who = self._credentials(writer.get_extra_info("socket").fileno())
            if not may_control(who):
                log.warning("control_refused", uid=who.uid, pid=who.pid)
                _refuse(f"uid {who.uid} may not: be root, or join the group vxland")
            name, args = await self._request(reader)
            command, signature = self._command(name)
            answer = command(**_checked(name, signature, args))
            if isinstance(answer, AsyncGenerator):
                await self._stream(reader, writer, answer)
            else:
                await self._send(writer, {"result": await answer})
        except VxlandError as exc:
            await self._send(writer, {"error": str(exc), "usage": isinstance(exc, RequestError)})
        except _GoneError:
            raise
        except Exception as exc:
            log.exception("control_failed", command=name)
            await self._send(writer, {"error": f"{name} failed, see the daemon's log: {exc!r}", "usage": False})

    async def _request(self, reader: asyncio.StreamReader) -> tuple[object, object]:
        try:
            async with asyncio.timeout(self._request_s):
                line = await reader.readuntil(b"\n")
            request = json.loads(line, parse_constant=_refuse_constant)
        except asyncio.LimitOverrunError as exc:
            raise RequestError(f"the request is too long: use {MAX_REQUEST_LEN} bytes at most") from exc
        except (asyncio.IncompleteReadError, TimeoutError) as exc:
            raise RequestError("the request does not end: send one line of JSON") from exc
        except (ValueError, RecursionError) as exc:
            raise RequestError(f"the request is no JSON: {exc}") from exc
        except OSError as exc:
            raise _GoneError(exc.strerror) from exc
        if not isinstance(request, dict) or not request.keys() <= {"command", "args"}:
            raise RequestError('the request is no object of the form {"command": NAME, "args": OBJECT}')
        return request.get("command"), request.get("args", {})

    def _command(self, name: object) -> tuple[Command, inspect.Signature]:
        found = self._commands.get(name) if isinstance(name, str) else None
        if found is None:
            raise RequestError(f"command: {_short(name)}: use one of {', '.join(sorted(self._commands))}")
        return found

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, items: AsyncGenerator[object]
    ) -> None:
        """Write items until the end, or until the client leaves or sends anything more."""

        async def write() -> None:
            async with aclosing(items):
                async for item in items:
                    await self._send(writer, {"item": item})
            await self._send(writer, {"end": True})

        writing, leaving = asyncio.create_task(write()), asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, writing):
                task.cancel()
            await asyncio.wait({writing, leaving})
        if not leaving.cancelled():
            leaving.exception()  # a reset is as good as an end
        with suppress(asyncio.CancelledError):
            writing.result()

    async def _send(self, writer: asyncio.StreamWriter, answer: dict[str, object]) -> None:
        line = json.dumps(answer, default=str).encode() + b"\n"
        try:
            writer.write(line)
            async with asyncio.timeout(self._stall_s):
                await writer.drain()
        except TimeoutError as exc:
            log.warning("control_client_cut_off", stalled_s=self._stall_s)
            raise _GoneError("it does not read") from exc
        except OSError as exc:
            raise _GoneError(exc.strerror) from exc


async def _wait_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for the client to close: with a request unread the kernel would drop the end of the answer. unix(7)."""
    if not writer.is_closing():
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                writer.write_eof()
                while await reader.read(MAX_REQUEST_LEN):
                    pass


def _checked(name: object, signature: inspect.Signature, args: object) -> dict[str, object]:
    """Return the arguments of a request. RequestError names the first invalid one."""
    if not isinstance(args, dict):
        raise RequestError(f"args: {_short(args)}: use an object")
    for key in args:
        if key not in signature.parameters:
            takes = ", ".join(signature.parameters) or "nothing"
            raise RequestError(f"args.{_short(key)}: {_short(args[key])}: {name} takes {takes}")
    for key, parameter in signature.parameters.items():
        if key not in args:
            if parameter.default is parameter.empty:
                raise RequestError(f"args.{key}: missing: {name} needs it")
        elif not _fits(args[key], parameter.annotation):
            kind = parameter.annotation
            wanted = kind.__name__ if isinstance(kind, type) else kind  # a union's name is "Union" since Python 3.14
            raise RequestError(f"args.{key}: {_short(args[key])}: use {wanted}")
    return args


def _fits(value: object, annotation: Any) -> bool:  # noqa: ANN401  (what an annotation may be)
    """Return whether a value of JSON has the annotated type."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if isinstance(value, bool):  # an int to Python, but not to the caller
        return bool in kinds
    return any(
        isinstance(value, (int, float) if kind is float else NoneType if kind is None else kind) for kind in kinds
    )


def _short(value: object) -> str:
    """Return a value of a request, short enough for an error of one line."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _refuse(why: str) -> NoReturn:
    raise VxlandError(why)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
