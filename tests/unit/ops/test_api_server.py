"""The control socket: whatever comes in, an answer of one line comes out, and the next client is served."""

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

from vxland.model.errors import VxlandError
from vxland.ops.api_server import MAX_CLIENTS, MAX_REQUEST_LEN, ApiServer
from vxland.ops.api_socket import PeerCredentials

PATIENCE_S = 30.0


class Commands:
    """What the server of these tests serves."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[str] = asyncio.Queue()

    async def hello(self, name: str, times: int = 1, pace: float = 1.0, last: str | None = None) -> object:
        """Every kind of parameter."""
        return [name * times, pace, last]

    async def refuse(self) -> object:
        """A refusal of the node's."""
        raise VxlandError("not now")

    async def fail(self) -> object:
        """A mistake in the program."""
        raise PermissionError("a bug")

    async def count(self, most: int) -> AsyncGenerator[object]:
        """A stream that ends, and tells so."""
        try:
            for number in range(most):
                yield number
        finally:
            self.streams.put_nowait("closed")

    async def flood(self) -> AsyncGenerator[object]:
        """A stream that does not end."""
        try:
            while True:
                yield "x" * 65_536
        finally:
            self.streams.put_nowait("closed")

    async def halt(self) -> AsyncGenerator[object]:
        """A stream that fails after its first item."""
        yield 1
        raise VxlandError("no more")

    async def wait(self) -> AsyncGenerator[object]:
        """A stream without items."""
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
    """A server of Commands, and its socket."""
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
    """Every line that is answered to `line`."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    answers = [json.loads(answer) for answer in (await reader.read()).splitlines()]
    writer.close()
    await writer.wait_closed()
    return answers


def shout(path: Path, length: int) -> Any:  # noqa: ANN401  (as JSON has it)
    """The answer to so many octets, of which the server need not take all."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        with suppress(BrokenPipeError):
            sock.sendall(b"x" * length)
        return json.loads(sock.recv(1 << 16))


async def test_answers(tmp_path: Path) -> None:
    """An answer is the command's, and what may be left out has its default."""
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
async def test_refuses_what_it_does_not_understand(tmp_path: Path, request_line: bytes, error: str) -> None:
    """A wrong request gets one error that says what to do, marked as the asker's fault."""
    async with served(tmp_path) as (path, _):
        (answer,) = await ask(path, request_line)
        assert error in answer["error"]
        assert answer["usage"] is True
        assert len(answer["error"]) < 400


async def test_refuses_a_long_request(tmp_path: Path) -> None:
    """Beyond 64 KiB a request is refused, however much of it is still to come; below it is read."""
    async with served(tmp_path) as (path, _):
        for length in (MAX_REQUEST_LEN + 1, 1 << 20):
            assert "too long" in (await asyncio.to_thread(shout, path, length))["error"]
        name = "x" * (MAX_REQUEST_LEN - 100)
        assert await ask(path, json.dumps({"command": "hello", "args": {"name": name}}).encode() + b"\n") == [
            {"result": [name, 1.0, None]}
        ]


async def test_refuses_a_request_that_does_not_end(tmp_path: Path) -> None:
    """A client that dawdles over its request is told so and let go."""
    async with served(tmp_path, request_s=0.01) as (path, _):
        (answer,) = await ask(path, b'{"command": ')
        assert "does not end" in answer["error"]


async def test_tells_the_nodes_refusals_from_the_askers(tmp_path: Path) -> None:
    """A VxlandError of a command is an answer, and so is a bug, which the log has in full."""
    async with served(tmp_path) as (path, _):
        assert await ask(path, b'{"command": "refuse"}\n') == [{"error": "not now", "usage": False}]
        (answer,) = await ask(path, b'{"command": "fail"}\n')
        assert answer == {"error": "fail failed, see the daemon's log: PermissionError('a bug')", "usage": False}


async def test_streams(tmp_path: Path) -> None:
    """A stream is its items and an end; or an error in the midst of it."""
    async with served(tmp_path) as (path, commands):
        items = await ask(path, b'{"command": "count", "args": {"most": 3}}\n')
        assert items == [{"item": 0}, {"item": 1}, {"item": 2}, {"end": True}]
        assert await commands.streams.get() == "closed"
        assert await ask(path, b'{"command": "halt"}\n') == [{"item": 1}, {"error": "no more", "usage": False}]


@pytest.mark.parametrize("command", [b"wait", b"flood"])
async def test_a_client_that_leaves_ends_its_stream(tmp_path: Path, command: bytes) -> None:
    """The generator is closed at once, also while it waits for its next item."""
    async with served(tmp_path) as (path, commands):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"command": "%b"}\n' % command)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await commands.streams.get() == "closed"
        assert (await ask(path, b'{"command": "refuse"}\n'))[0]["error"] == "not now"


async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """What is written for it is bounded, and when it has stalled long enough its stream ends."""
    async with served(tmp_path, stall_s=0.01) as (path, commands):
        reader, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b'{"command": "flood"}\n')
        await writer.drain()
        assert await commands.streams.get() == "closed"
        got = 0
        try:
            while octets := await reader.read(1 << 16):
                got += len(octets)
        except ConnectionResetError:
            pass
        assert 0 < got < 1 << 21
        writer.close()


async def test_serves_so_many_clients_at_once(tmp_path: Path) -> None:
    """One more than MAX_CLIENTS is told to try again, and is served when another has left."""
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
        (PeerCredentials(1, 65_534, frozenset({65_534})), False),
        (PeerCredentials(1, 65_534, frozenset({65_534, 4242})), True),
    ],
    ids=["root", "own", "stranger", "group"],
)
async def test_asks_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: PeerCredentials, allowed: bool
) -> None:
    """Root, the daemon's own user and the group may ask; anyone else is refused, whatever the file's mode."""
    monkeypatch.setattr("vxland.ops.api_socket._group", lambda: 4242)
    monkeypatch.setattr("os.chown", lambda *_: None)
    credentials: Callable[[int], PeerCredentials] = lambda _: who  # noqa: E731  (a lambda has no docstring to need)
    async with served(tmp_path, credentials=credentials) as (path, _):
        (answer,) = await ask(path, b'{"command": "hello", "args": {"name": "a"}}\n')
        assert ("result" in answer) is allowed
        if not allowed:
            assert answer == {"error": "uid 65534 may not: be root, or join the group vxland", "usage": False}


async def test_close_cuts_everybody_off(tmp_path: Path) -> None:
    """Clients that wait see an end, and the file is gone."""
    async with served(tmp_path) as (path, _):
        waiting = [await asyncio.open_unix_connection(path) for _ in range(2)]
        waiting[0][1].write(b'{"command": "wait"}\n')
        await ask(path, b'{"command": "refuse"}\n')  # the server has met those before
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
        test_a_client_that_does_not_read_is_cut_off,
        test_serves_so_many_clients_at_once,
        test_close_cuts_everybody_off,
    ],
    ids=range(9),
)
def test_is_the_same_on_uvloop(tmp_path: Path, behaviour: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """The daemon's loop, whose transports are not asyncio's."""
    uvloop.run(behaviour(tmp_path))
