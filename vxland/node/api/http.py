"""/metrics, /healthz and /readyz of a node, served from when their address can be bound until the node ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from vxland.config.values import Listen
from vxland.model.errors import StartError
from vxland.node.sample import DeviceSample, NodeSample

if TYPE_CHECKING:
    from vxland.ops.metrics import MetricsServer

METRICS_S: Final = 5.0
"""Pause between attempts to bind the address: a flanneld that ends may still have it."""

log = structlog.get_logger()


def load_metrics() -> None:
    """Import what open_metrics() needs: on an event loop, that would hold it for 20 ms."""
    from vxland.node.api import metric_families  # noqa: F401, PLC0415  (3 MB that a node without metrics need not load)
    from vxland.ops import metrics  # noqa: F401, PLC0415  (as above)


def open_metrics(
    address: str,
    port: int,
    sample: Callable[[], NodeSample],
    devices: Callable[[], Sequence[DeviceSample]] = tuple,
    hung: Callable[[], str] = str,
) -> MetricsServer:
    """Serve the metrics and readiness of a node, until the server is closed. StartError if the address is taken."""
    from vxland.node.api import metric_families  # noqa: PLC0415  (3 MB that a node without metrics need not load)
    from vxland.ops.metrics import MetricsServer, Readiness  # noqa: PLC0415  (as above)

    def readiness() -> Readiness:
        now = sample()
        return now.not_ready, now.troubles

    return MetricsServer(address, port, lambda: metric_families.families(sample(), devices()), readiness, hung)


async def serve_metrics(
    listen: Listen,
    sample: Callable[[], NodeSample],
    devices: Callable[[], Sequence[DeviceSample]],
    hung: Callable[[], str],
) -> None:
    """Serve the metrics and readiness of a node until cancelled; retry while the address is taken."""
    error = ""
    while True:
        try:
            server = open_metrics(str(listen.address), listen.port, sample, devices, hung)
        except StartError as exc:  # forwarding matters more
            if str(exc) != error:
                log.warning("metrics_off", cause=exc.cause, remedy=exc.remedy, retry_s=METRICS_S)
            error = str(exc)
            await asyncio.sleep(METRICS_S)
            continue
        if error:
            log.info("metrics_on", listen=str(listen))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.to_thread(server.close)  # close() waits for the thread
