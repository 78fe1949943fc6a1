"""/metrics, /healthz and /readyz of a node: served as soon as their address can be bound, and until the node ends."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from vxland.answers.standing import Standing
from vxland.config.values import Listen
from vxland.errors import StartError

METRICS_S: Final = 5.0
"""Pause between two tries to bind the address: a flanneld that ends, or another node of a test bed, may have had it."""

log = structlog.get_logger()


async def serve_metrics(listen: Listen, standing: Standing) -> None:
    """Serve until cancelled."""
    from vxland.ops.metrics import MetricsServer  # noqa: PLC0415  (3 MB that a node without it need not have)

    error = ""
    while True:
        try:
            server = MetricsServer(
                str(listen.address),
                listen.port,
                standing.sample,
                lambda: [plane.measured() for plane in standing.planes],
            )
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
            await asyncio.to_thread(server.close)  # it waits for the thread
