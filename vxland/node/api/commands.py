"""The commands of vxlandctl that a running node answers, and the API socket that serves them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from vxland.model.errors import ConfigError, StartError
from vxland.node.api.frames import FrameAnswers
from vxland.node.api.names import NameAnswers
from vxland.node.api.path_test import PathTestAnswers
from vxland.node.api.status import NodeAnswers
from vxland.node.api.support import SupportAnswers
from vxland.node.api.trace import TraceAnswers
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import ApiServer

ReadState = Callable[[], NodeSnapshot]
Reload = Callable[[], Awaitable[list[ConfigError]]]


async def open_control(stack: AsyncExitStack, read_state: ReadState, reload: Reload) -> StartError | None:
    """Serve the API socket until `stack` ends. Return the error if it cannot be opened: the node works without it."""
    server = ApiServer(read_state().settings.control.socket)
    node, trace, frames = NodeAnswers(read_state, reload), TraceAnswers(read_state), FrameAnswers(read_state)
    support = SupportAnswers(read_state)
    server.register("status", node.status)
    server.register("peers", node.peers)
    server.register("stats", node.stats)
    server.register("plan", node.plan)
    server.register("reload", node.reload)
    server.register("trace", trace.trace)
    server.register("drops", frames.drops)
    server.register("capture", frames.capture)
    server.register("support", support.support)
    server.register("names", NameAnswers(read_state).names)
    server.register("test", PathTestAnswers(read_state).test)
    try:
        await server.open()
    except StartError as exc:
        return exc
    stack.push_async_callback(server.close)
    return None
