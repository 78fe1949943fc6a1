"""Whether a flanneld lives on this node: then the device of that name is its own, and vxland waits.

A flanneld that runs deletes a TAP called flannel.1 and makes a kernel vxlan device of it; today's makes it again when
somebody deletes it, but does not program its peers again. Whoever takes a living flanneld's device thus cuts the node
off. Three things show one:

- a process called flanneld in this network namespace. A container that does not share the host's process ids sees none;
- an answer "flanneld is running" on its health port: that of flannel's own manifest, or the one that was configured;
- a kernel vxlan device in the place of a TAP that was in use a moment ago.

The first two hold as long as they are seen. The third says nothing of how long, so it holds for a while that doubles
each time: long where the device is up, since a kernel device forwards without its daemon, too; short where it is not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from vxland.kernel.processes import health_text, named
from vxland.model.backoff import Backoff
from vxland.model.errors import RivalError

MANIFEST_PORT: Final = 8081  # of kube-flannel.yml
UP_S: Final = 60.0
DOWN_S: Final = 5.0
MOST_S: Final = 900.0

_FIRST_S: Final = {True: UP_S, False: DOWN_S}  # by whether the kernel device is up

_SAYS: Final = "flanneld is running"
_REMEDY: Final = (
    "keep flannel off this node (deploy/keep-flannel-off.patch.yml; flannel's upgrade undoes it), or stop flanneld; "
    "vxland takes over by itself then"
)


def _no_jitter() -> float:
    return 0.0  # one node waits for one flanneld: there is no crowd to spread


async def _signs(ports: frozenset[int]) -> str:
    return await asyncio.to_thread(_look, ports)


def _look(ports: frozenset[int]) -> str:
    if (pid := next(named("flanneld"), None)) is not None:
        return f"process {pid}"
    port = next((port for port in sorted(ports) if health_text("127.0.0.1", port).startswith(_SAYS)), None)
    return "" if port is None else f"it answers on port {port}"


class RivalWatch:
    """The flanneld of this node, if there is one. `signs` and `clock` are for tests."""

    def __init__(
        self,
        port: int | None,
        *,
        signs: Callable[[frozenset[int]], Awaitable[str]] = _signs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = frozenset({MANIFEST_PORT} if port is None else {MANIFEST_PORT, port})
        self._signs = signs
        self._clock = clock
        self._holds = {up: Backoff(_no_jitter, first_s=first_s, last_s=MOST_S) for up, first_s in _FIRST_S.items()}
        self._until = float("-inf")

    async def check(self, device: str) -> None:
        """RivalError while a flanneld lives here."""
        if found := await self._signs(self._ports):
            other = f"; if it serves another network, delete {device}"
            raise RivalError(f"flanneld runs on this node, and {device} is its own ({found})", _REMEDY + other)
        if (left_s := self._until - self._clock()) > 0:
            cause = f"{device} became a kernel vxlan device while vxland used it, as if flanneld ran on this node"
            again = f"; or delete {device}. Otherwise vxland takes it in {left_s:.0f} s"
            raise RivalError(cause, _REMEDY + again)

    def replaced(self, device: str, *, up: bool) -> RivalError:
        """Note that a kernel vxlan device has taken the place of our TAP; the error that says so."""
        now = self._clock()
        if now - self._until > MOST_S:
            for hold in self._holds.values():
                hold.reset()
        holds_s = {state: hold.next_s() for state, hold in self._holds.items()}
        self._until = now + holds_s[up]
        return RivalError(f"{device} became a kernel vxlan device while vxland used it: flanneld runs here", _REMEDY)

    def gone(self) -> None:
        """Note that the kernel device is gone: whoever has deleted it wants vxland to have the name."""
        self._until = float("-inf")
