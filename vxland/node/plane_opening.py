"""The planes of a node: chosen from its settings or its cluster's network, then opened, waiting where that helps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from vxland.config import Settings
from vxland.forwarding.io.fdstore import Inherited
from vxland.model.errors import OccupiedError
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Mac
from vxland.node.plane import Plane
from vxland.node.plane_settings import planes_of
from vxland.node.running_flanneld import FlanneldWatch
from vxland.registry.net_conf import NetConf
from vxland.registry.protocol import Registry

RETRY_S: Final = 2.0
"""Pause between two attempts to open what another program has."""

log = structlog.get_logger()


def choose_planes(
    settings: Settings, conf: NetConf | None, underlays: Iterable[Underlay]
) -> list[tuple[Settings, Underlay]]:
    """Return the settings and underlay of each plane to open; ConfigError where one cannot be."""
    found: dict[int, Underlay] = {underlay.address.version: underlay for underlay in underlays}
    if conf is None:
        return [(settings, underlay) for underlay in found.values()]
    for option in conf.ignored:
        log.warning("option_ignored", option=option)
    most = min(underlay.mtu for underlay in found.values())
    if conf.mtu is not None and conf.mtu > most:  # the kernel does the same to flanneld's device
        log.warning("backend_mtu_clamped", wanted=conf.mtu, mtu=most)
        conf = replace(conf, mtu=most)
    return [(each, found[version]) for version, each in planes_of(settings, conf).items()]


async def open_planes(
    stack: AsyncExitStack,
    planes: Sequence[Plane],
    registry: Registry,
    inherited: Inherited,
    flanneld: FlanneldWatch | None,
    enter_stage: Callable[[str], None],
) -> None:
    """Open the planes with the MACs that peers know; `stack` closes them.

    A node of a flannel cluster, which has a `flanneld` watch, retries while another program has the device or port;
    `enter_stage()` notes why. A static node raises OccupiedError: its configuration is mostly at fault, and its service
    manager restarts it.
    """
    logged: set[str] = set()
    advertised: dict[int, Address] = {version: plane.advertised for plane in planes for version in plane.versions}

    async def recall(version: int) -> Mac | None:
        return (await registry.recall(advertised)).macs.get(version)

    while True:
        async with AsyncExitStack() as attempt:
            try:
                for plane in planes:
                    await plane.open(attempt, inherited, partial(recall, plane.underlay.address.version), flanneld)
            except OccupiedError as exc:
                if flanneld is None:
                    raise
                enter_stage(f"opening devices: {exc}")
                if exc.cause not in logged:
                    logged.add(exc.cause)
                    log.warning("node_waits", cause=exc.cause, remedy=exc.remedy)
            else:
                stack.push_async_exit(attempt.pop_all())
                return
        await asyncio.sleep(RETRY_S)
