"""Detection of a flanneld on this node: the device of that name is its own then, and vxland waits.

A running flanneld deletes a TAP called flannel.1 and makes a kernel vxlan device of that name. When somebody deletes
that, today's flanneld makes it again, but does not program its peers again. To take a running flanneld's device thus
cuts the node off. Three signs show one:

- a process called flanneld in this network namespace. A container that does not share the host's process ids sees none;
- an answer "flanneld is running" on its health port: that of flannel's own manifest, or the one that was configured;
- a kernel vxlan device in the place of a TAP that was in use a moment ago.

The first two hold as long as they are seen. The third does not show for how long, so it holds for a period that doubles
each time: long where the device is up, since a kernel device forwards without its daemon, too; short where it is not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from vxland.kernel.processes import health_text, named
from vxland.model.backoff import Backoff
from vxland.model.errors import FlanneldRunningError
from vxland.netlink.client import Netlink

MANIFEST_PORT: Final = 8081  # of kube-flannel.yml
UP_S: Final = 60.0
DOWN_S: Final = 5.0
MAX_S: Final = 900.0

_FIRST_S: Final = {True: UP_S, False: DOWN_S}  # by whether the kernel device is up

_HEALTHY: Final = "flanneld is running"
_REMEDY: Final = (
    "keep flannel off this node (deploy/keep-flannel-off.patch.yml; flannel's upgrade undoes it), or stop flanneld; "
    "vxland takes over by itself then"
)

log = structlog.get_logger()


def _no_jitter() -> float:
    return 0.0  # one node waits for one flanneld: there is no crowd to spread


async def find_sign(ports: frozenset[int]) -> str:
    """Return the sign of a running flanneld, for people; empty if there is none."""
    return await asyncio.to_thread(_find_sign_now, ports)


def _find_sign_now(ports: frozenset[int]) -> str:
    if (pid := next(named("flanneld"), None)) is not None:
        return f"process {pid}"
    port = next((port for port in sorted(ports) if health_text("127.0.0.1", port).startswith(_HEALTHY)), None)
    return "" if port is None else f"it answers on port {port}"


class FlanneldWatch:
    """Watch for a flanneld here, with the health port `port` if one is set. `find_sign` and `clock` are for tests."""

    def __init__(
        self,
        port: int | None,
        *,
        find_sign: Callable[[frozenset[int]], Awaitable[str]] = find_sign,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports = frozenset({MANIFEST_PORT} if port is None else {MANIFEST_PORT, port})
        self._find_sign = find_sign
        self._clock = clock
        self._holds = {up: Backoff(_no_jitter, first_s=first_s, last_s=MAX_S) for up, first_s in _FIRST_S.items()}
        self._until = float("-inf")

    async def check(self, device: str) -> None:
        """FlanneldRunningError while a flanneld runs here."""
        if sign := await self._find_sign(self._ports):
            other = f"; if it serves another network, delete {device}"
            raise FlanneldRunningError(f"flanneld runs on this node, and {device} is its own ({sign})", _REMEDY + other)
        if (left_s := self._until - self._clock()) > 0:
            cause = f"{device} became a kernel vxlan device while vxland used it, as if flanneld ran on this node"
            again = f"; or delete {device}. Otherwise vxland takes it in {left_s:.0f} s"
            raise FlanneldRunningError(cause, _REMEDY + again)

    def replaced(self, device: str, *, up: bool) -> FlanneldRunningError:
        """Note that a kernel vxlan device has taken the place of our TAP; return the error for that."""
        now = self._clock()
        if now - self._until > MAX_S:
            for hold in self._holds.values():
                hold.reset()
        holds_s = {state: hold.next_s() for state, hold in self._holds.items()}
        self._until = now + holds_s[up]
        cause = f"{device} became a kernel vxlan device while vxland used it: flanneld runs here"
        return FlanneldRunningError(cause, _REMEDY)

    def gone(self) -> None:
        """Note that the kernel device is gone: it was deleted for vxland to take the name."""
        self._until = float("-inf")


async def free_name(netlink: Netlink, device: str, flanneld: FlanneldWatch | None, *, in_use: bool) -> None:
    """Delete the kernel vxlan device `device` that a flanneld has left, if any; no effect without a watch.

    FlanneldRunningError if one runs here, or if the device took the place of a TAP that was `in_use`.
    """
    if flanneld is None:
        return
    link = await netlink.link(device)
    if link is None or link.kind != "vxlan":
        flanneld.gone()
        if in_use:  # otherwise a flanneld here may serve another network
            await flanneld.check(device)
        return
    if in_use:
        raise flanneld.replaced(device, up=link.up)
    await flanneld.check(device)
    await netlink.delete_device_state(device, "vxlan")
    log.warning("kernel_device_replaced", device=device, mac=str(link.mac))
