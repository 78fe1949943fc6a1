"""The API socket: any input gets an answer of one line, and the next client is served."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.patience import PATIENCE_S
from vxland.model.errors import VxlandError
from vxland.ops.api_server import MAX_CLIENTS, MAX_REQUEST_LEN, ApiServer
from vxland.ops.api_socket import PeerCredentials

OTHER = 65_534 if os.geteuid() != 65_534 else 65_533
"""A user who is neither root nor the one who runs the tests."""


class Commands:
    """Commands of the server in these tests."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[str] = asyncio.Queue()

    async def hello(self, name: str, times: int = 1, pace: float = 1.0, last: str | None = None) -> object:
        """Take every kind of parameter."""
        return [name * times, pace, last]

    async def refuse(self) -> object:
        """Fail as the node does."""
        raise VxlandError("not now")

    async def fail(self) -> object:
        """Fail by a bug."""
        raise PermissionError("a bug")

    async def count(self, most: int) -> AsyncGenerator[object]:
        """Stream some items, and record the end."""
        try:
            for number in range(most):
                yield number
        finally:
            self.streams.put_nowait("closed")

    async def flood(self) -> AsyncGenerator[object]:
        """Stream without end."""
        try:
            while True:
                yield "x" * 65_536
        finally:
            self.streams.put_nowait("closed")

    async def halt(self) -> AsyncGenerator[object]:
        """Fail after the first item."""
        yield 1
        raise VxlandError("no more")

    async def wait(self) -> AsyncGenerator[object]:
        """Stream nothing, and wait."""
        try:
            await asyncio.Event().wait()
            yield None
        finally:
            self.streams.put_nowait("closed")


@asynccontextmanager
async def served(
    tmp_path: Path,
    **options: Any,  # noqa: ANN401  (the server's own)
) -> AsyncIterator[tuple[Path, Commands]]:
    """Run a server of Commands; yield its socket and them."""
    path, commands = tmp_path / "run" / "control.sock", Commands()
    server = ApiServer(path, **options)
    for name in ("hello", "refuse", "fail", "count", "flood", "halt", "wait"):
        server.register(name, getattr(commands, name))
    await server.open()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield path, commands
    finally:
        await server.close()


async def ask(path: Path, line: bytes) -> list[Any]:
    """Send `line`, and return every line of the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    answers = [json.loads(answer) for answer in (await reader.read()).splitlines()]
    writer.close()
    await writer.wait_closed()
    return answers


def shout(path: Path, length: int) -> Any:  # noqa: ANN401  (as JSON has it)
    """Send `length` bytes, which the server need not read to the end; return its answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        with suppress(BrokenPipeError):
            sock.sendall(b"x" * length)
        return json.loads(sock.recv(1 << 16))


async def test_answers(tmp_path: Path) -> None:
    """An answer is the command's, and optional arguments have their defaults."""
    async with served(tmp_path) as (path, _):
        assert await ask(path, b'{"command": "hello", "args": {"name": "a"}}\n') == [{"result": ["a", 1.0, None]}]
        full = b'{"args": {"name": "a", "times": 2, "pace": 3, "last": "z"}, "command": "hello"}\n'
        assert await ask(path, full) == [{"result": ["aa", 3, "z"]}]


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"\n", "no JSON"),
        (b"hello\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b'{"command": "hello", "args": {"name": NaN}}\n', "NaN is no number"),
        (b"1" * 5000 + b"\n", "no JSON"),
        (b"[" * 60_000 + b"\n", "no JSON"),
        (b"7\n", "no object of the form"),
        (b'{"command": "hello", "arg": {}}\n', "no object of the form"),
        (b'{"command": "nope"}\n', 'command: "nope": use one of count, '),
        (b'{"command": ["hello"]}\n', 'command: ["hello"]: use one of'),
        (b"{}\n", "command: null: use one of"),
        (b'{"command": "hello", "args": []}\n', "args: []: use an object"),
        (b'{"command": "hello"}\n', "args.name: missing: hello needs it"),
        (b'{"command": "hello", "args": {"name": 1}}\n', "args.name: 1: use str"),
        (b'{"command": "hello", "args": {"name": "a", "times": "2"}}\n', 'args.times: "2": use int'),
        (b'{"command": "hello", "args": {"name": "a", "times": true}}\n', "args.times: true: use int"),
        (b'{"command": "hello", "args": {"name": "a", "times": 1.5}}\n', "args.times: 1.5: use int"),
        (b'{"command": "hello", "args": {"name": null}}\n', "args.name: null: use str"),
        (b'{"command": "hello", "args": {"name": "a", "last": {}}}\n', "args.last: {}: use str | None"),
        (b'{"command": "hello", "args": {"name": "a", "self": 1}}\n', "hello takes name, times, pace, last"),
        (b'{"command": "wait", "args": {"%b": 1}}\n' % (b"k" * 500), "wait takes nothing"),
    ],
    ids=range(21),
)
async def test_refuses_an_invalid_request(tmp_path: Path, request_line: bytes, error: str) -> None:
    """An invalid request gets one error with the remedy, marked as the client's fault."""
    async with served(tmp_path) as (path, _):
        (answer,) = await ask(path, request_line)
        assert error in answer["error"]
        assert answer["usage"] is True
        assert len(answer["error"]) < 400


async def test_refuses_a_long_request(tmp_path: Path) -> None:
    """A request beyond 64 KiB is refused at once; a shorter one is read."""
    async with served(tmp_path) as (path, _):
        for length in (MAX_REQUEST_LEN + 1, 1 << 20):
            assert "too long" in (await asyncio.to_thread(shout, path, length))["error"]
        name = "x" * (MAX_REQUEST_LEN - 100)
        assert await ask(path, json.dumps({"command": "hello", "args": {"name": name}}).encode() + b"\n") == [
            {"result": [name, 1.0, None]}
        ]


async def test_refuses_a_request_that_does_not_end(tmp_path: Path) -> None:
    """A client that does not finish its request gets an error and is disconnected."""
    async with served(tmp_path, request_s=0.01) as (path, _):
        (answer,) = await ask(path, b'{"command": ')
        assert "does not end" in answer["error"]


async def test_separates_errors_of_the_node_and_of_the_client(tmp_path: Path) -> None:
    """A VxlandError of a command is an answer; so is a bug, which the log has in full."""
    async with served(tmp_path) as (path, _):
        assert await ask(path, b'{"command": "refuse"}\n') == [{"error": "not now", "usage": False}]
        (answer,) = await ask(path, b'{"command": "fail"}\n')
        assert answer == {"error": "fail failed, see the daemon's log: PermissionError('a bug')", "usage": False}


async def test_streams(tmp_path: Path) -> None:
    """A stream has its items and an end, or an error after some items."""
    async with served(tmp_path) as (path, commands):
        items = await ask(path, b'{"command": "count", "args": {"most": 3}}\n')
        assert items == [{"item": 0}, {"item": 1}, {"item": 2}, {"end": True}]
        assert await commands.streams.get() == "closed"
        assert await ask(path, b'{"command": "halt"}\n') == [{"item": 1}, {"error": "no more", "usage": False}]


@pytest.mark.parametrize("command", [b"wait", b"flood"])
async def test_a_client_that_leaves_ends_its_stream(tmp_path: Path, command: bytes) -> None:
    """The generator is closed at once, even while it waits for its next item."""
    async with served(tmp_path) as (path, commands):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"command": "%b"}\n' % command)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await commands.streams.get() == "closed"
        assert (await ask(path, b'{"command": "refuse"}\n'))[0]["error"] == "not now"


async def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    """The data written for it is bounded, and its stream ends after stall_s."""
    async with served(tmp_path, stall_s=0.01) as (path, commands):
        reader, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b'{"command": "flood"}\n')
        await writer.drain()
        assert await commands.streams.get() == "closed"
        got = 0
        try:
            while chunk := await reader.read(1 << 16):
                got += len(chunk)
        except ConnectionResetError:
            pass
        assert 0 < got < 1 << 21
        writer.close()


async def test_serves_max_clients_at_once(tmp_path: Path) -> None:
    """One more client gets an error, and is served when another one has left."""
    async with served(tmp_path) as (path, commands):
        waiting = []
        for _ in range(MAX_CLIENTS):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"command": "wait"}\n')
            await writer.drain()
            waiting.append(writer)
        (answer,) = await ask(path, b'{"command": "refuse"}\n')
        assert "clients are being served" in answer["error"]
        waiting.pop().close()
        assert await commands.streams.get() == "closed"
        assert (await ask(path, b'{"command": "refuse"}\n'))[0]["error"] == "not now"
        for writer in waiting:
            writer.close()


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (PeerCredentials(1, 0, frozenset({0})), True),
        (PeerCredentials(1, os.geteuid(), frozenset()), True),
        (PeerCredentials(1, OTHER, frozenset({OTHER})), False),
        (PeerCredentials(1, OTHER, frozenset({OTHER, 4242})), True),
    ],
    ids=["root", "own", "other", "group"],
)
async def test_checks_the_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: PeerCredentials, allowed: bool
) -> None:
    """Root, the daemon's own user and the group are served; others are refused, even if the file's mode admits them."""
    monkeypatch.setattr("vxland.ops.api_socket._group", lambda: 4242)
    monkeypatch.setattr("os.chown", lambda *_: None)
    credentials: Callable[[int], PeerCredentials] = lambda _: who  # noqa: E731  (a lambda has no docstring to need)
    async with served(tmp_path, credentials=credentials) as (path, _):
        (answer,) = await ask(path, b'{"command": "hello", "args": {"name": "a"}}\n')
        assert ("result" in answer) is allowed
        if not allowed:
            assert answer == {"error": f"uid {OTHER} may not: be root, or join the group vxland", "usage": False}


async def test_close_disconnects_all_clients(tmp_path: Path) -> None:
    """Waiting clients read the end, and the file is removed."""
    async with served(tmp_path) as (path, _):
        waiting = [await asyncio.open_unix_connection(path) for _ in range(2)]
        waiting[0][1].write(b'{"command": "wait"}\n')
        await ask(path, b'{"command": "refuse"}\n')  # by now the server knows the others
    assert not path.exists()
    for reader, writer in waiting:
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        test_answers,
        test_refuses_a_long_request,
        test_refuses_a_request_that_does_not_end,
        test_streams,
        partial(test_a_client_that_leaves_ends_its_stream, command=b"wait"),
        partial(test_a_client_that_leaves_ends_its_stream, command=b"flood"),
        test_a_client_that_does_not_read_is_disconnected,
        test_serves_max_clients_at_once,
        test_close_disconnects_all_clients,
    ],
    ids=range(9),
)
def test_is_the_same_on_uvloop(tmp_path: Path, behaviour: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """The daemon's event loop has transports of its own."""
    uvloop.run(behaviour(tmp_path))
