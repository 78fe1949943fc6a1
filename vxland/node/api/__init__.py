"""What a running node answers on its control socket: each command of vxlandctl is a function here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from vxland.model.errors import ConfigError, StartError
from vxland.node.api.frames import FrameAnswers
from vxland.node.api.status import NodeAnswers
from vxland.node.api.trace import TraceAnswers
from vxland.node.snapshot import NodeSnapshot
from vxland.node.state import NodeState
from vxland.ops.api_server import ApiServer

__all__ = ["NodeState", "open_control"]

Look = Callable[[], NodeSnapshot]
Reload = Callable[[], Awaitable[list[ConfigError]]]


async def open_control(stack: AsyncExitStack, look: Look, reload: Reload) -> StartError | None:
    """Serve the control socket until `stack` ends; why there is none, without which a node works all the same."""
    server = ApiServer(look().settings.control.socket)
    node, trace, frames = NodeAnswers(look, reload), TraceAnswers(look), FrameAnswers(look)
    server.register("status", node.status)
    server.register("peers", node.peers)
    server.register("stats", node.stats)
    server.register("plan", node.plan)
    server.register("reload", node.reload)
    server.register("trace", trace.trace)
    server.register("drops", frames.drops)
    server.register("capture", frames.capture)
    try:
        await server.open()
    except StartError as exc:
        return exc
    stack.push_async_callback(server.close)
    return None
