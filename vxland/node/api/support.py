"""Command support: what only the daemon knows about itself, for the archive of `vxlandctl support`."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Final

from vxland import __version__
from vxland.config.described import described
from vxland.fastpath.libbpf import library
from vxland.model.errors import VxlandError
from vxland.netlink.features import features
from vxland.node.preflight.host import host_findings, mac_policies
from vxland.node.preflight.target import Target
from vxland.node.snapshot import NodeSnapshot
from vxland.ops import log

_PACKAGES: Final = (
    *("aiohttp", "click", "cython", "prometheus-client", "pydantic", "pyroute2", "pyseccomp"),
    *("pyyaml", "rich", "structlog", "uvloop"),
)


class SupportAnswers:
    """Answers for the node that `read_state()` returns."""

    def __init__(self, read_state: Callable[[], NodeSnapshot]) -> None:
        self._read_state = read_state

    async def support(self) -> object:
        """Return settings without secrets, versions, features of devices, what hurts on the host, and log events."""
        node = self._read_state()
        indices = {}
        for plane in node.planes:
            indices[plane.settings.device] = 0
            indices[plane.underlay.interface] = plane.underlay.index
            for own in plane.own:
                indices[await plane.netlink.interface_to(own[min(2, own.num_addresses - 1)])] = 0
        return {
            "settings": described(node.settings),
            "versions": await asyncio.to_thread(_versions),
            "features": await asyncio.to_thread(_features, indices.items()),
            "host": await _host(node),
            "events": [json.loads(line) for line in log.RECENT.lines()],
        }


async def _host(node: NodeSnapshot) -> object:
    """Return what hurts on the host, as `vxland check --here` would; flanneld's flags have no such check."""
    if not node.planes:
        return []
    targets = [Target.of(plane) for plane in node.planes]
    try:
        found = await host_findings(node.planes[0].netlink, targets, node.settings)
    except (VxlandError, OSError) as exc:
        return f"not known: {exc}"
    return [asdict(each) for each in (*found, *await asyncio.to_thread(lambda: list(mac_policies(targets))))]


def _features(indices: Iterable[tuple[str, int]]) -> dict[str, list[str]]:
    """Return the features that are on, by device; its index is 0 if its name finds it."""
    found = {}
    for name, index in indices:
        try:
            found[name] = sorted(features(index or socket.if_nametoindex(name)))
        except OSError:  # it has just vanished; or there is no bridge yet, whose name is ""
            continue
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (nothing that a node should load)

    found = {"vxland": __version__, "python": sys.version}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if (lib := library()) is not None:
        found["libbpf"] = f"{lib.libbpf_major_version()}.{lib.libbpf_minor_version()}"
    return found
