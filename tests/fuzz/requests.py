"""Requests on the control socket: a connection, what is written to it, and its end."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import structlog
import uvloop

from tests.fabric import lone_node, subnets_of_b
from tests.frames import OUTER_A, OWN_MAC
from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.datapath.owners import Owners
from vxland.forwarding.telemetry import DeviceTelemetry
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Mac
from vxland.model.source_check import SourceCheck
from vxland.node.api.frames import FrameAnswers
from vxland.node.api.trace import TraceAnswers
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import ApiServer

SEEDS = [
    b'{"command": "trace", "args": {"src": "10.244.0.2", "dst": "10.244.1.3"}}\n',
    b'{"command":"trace","args":{"src":"fd00:244::2","dst":"fd00:244:0:1::3","proto":"tcp","sport":1,"dport":80}}\n',
    b'{"command":"trace","args":{"src":"10.244.1.3","dst":"10.244.0.2","proto":"udp","sport":-1}}\n',
    b'{"command": "drops"}\n',
    b'{"command":"capture","args":{"inner":false,"outer":true,"dropped":true,"snaplen":64}}\n',
    b'{"command":"every","args":{"text":"a","number":1,"part":0.5,"flag":true,"maybe":null}}\n',
    b'{"command":"count","args":{"most":3}}\n',
    b'{"command":"refuse","args":{}}\n',
    b"[1, 2",
]


class _Commands:
    """Those that a node without a kernel has not."""

    async def every(self, text: str, number: int, part: float, flag: bool, maybe: str | None = None) -> object:
        """Every kind of parameter."""
        assert type(text) is str
        assert type(number) is int
        assert type(part) in {int, float}
        assert type(flag) is bool
        assert maybe is None or type(maybe) is str
        return [text, number, part, flag, maybe]

    async def count(self, most: int) -> AsyncGenerator[object]:
        """A stream that ends."""
        for number in range(min(most, 5)):
            yield number

    async def refuse(self) -> object:
        """A refusal."""
        raise VxlandError("not now")


@contextmanager
def checking() -> Iterator[Check]:
    """A server with the commands of a node of one device, whose data path is on loopback."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        node, _ = stack.enter_context(lone_node())
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
        stack.callback(structlog.reset_defaults)
        owners = Owners()
        owners.change((), subnets_of_b())
        plane = SimpleNamespace(
            settings=SimpleNamespace(
                device="flannel.1",
                networks=[ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")],
                overlay=SimpleNamespace(vni=1, port=8472),
                outer=OuterHeader(),
            ),
            own=[ip_network("10.244.0.0/24"), ip_network("fd00:244::/64")],
            mac=Mac(OWN_MAC),
            mtu=1450,
            underlay=SimpleNamespace(address=ip_address(OUTER_A), interface="e0"),
            workers=SimpleNamespace(
                source_ports=[40000, 40001],
                table=node.pump.table,
                limits=node.pump.limits,
                telemetry=DeviceTelemetry([node.pump]),
            ),
            owners=owners,
            direct=False,
            forwarding=SimpleNamespace(problems=(), refresh=_refresh),
            fast_path=SimpleNamespace(
                diverted=nullcontext,
                off="",
                superframes=True,
                short_of_cpu=False,
                is_diverted=False,
                sends_to=lambda vtep: vtep in node.pump.table.vteps,
                receives_from=lambda _: False,
            ),
        )
        settings = SimpleNamespace(security=SimpleNamespace(source_check=SourceCheck.VTEP))
        snapshot = cast("NodeSnapshot", SimpleNamespace(planes=(plane,), settings=settings))
        path = Path(folder) / "control.sock"
        server = ApiServer(path)
        for commands in (_Commands(), TraceAnswers(lambda: snapshot), FrameAnswers(lambda: snapshot)):
            for name in vars(type(commands)):
                if not name.startswith("_"):
                    server.register(name, getattr(commands, name))
        runner.run(server.open())
        stack.callback(lambda: runner.run(server.close()))

        def check(raw: bytes) -> None:
            lines = runner.run(_asked(path, raw)).splitlines(keepends=True)
            answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
            assert all(line.endswith(b"\n") for line in lines)
            for answer in answers:
                if "error" in answer:
                    check_told(answer["error"])
                    assert "see the daemon's log" not in answer["error"], answer
            if b"\n" in raw and raw.endswith(b"\n"):
                assert answers

        yield check


async def _refresh(_max_age_s: float) -> None:
    """Find nothing in the way: the firewall's programs are not what is fuzzed."""


async def _asked(path: Path, raw: bytes) -> bytes:
    """The answers to a client that writes and then closes its side."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(path))
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    try:
        writer.write(raw)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        with suppress(OSError):  # a server that has refused the client does not read what is left
            await writer.wait_closed()
