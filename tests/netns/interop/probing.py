"""Nodes that ping each other, the results of these pings, and a firewall of node b that blocks them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .asking import METRICS, ask_json
from .lab import Lab, Vxland
from .ns import wait_until


def probing(made: Lab) -> Lab:
    """Return the lab with pings every second and metrics."""
    for vxland in filter(None, (made.vxland, made.other)):
        vxland.settings["probe"]["interval_s"] = 1
    made.vxland.settings["metrics"]["listen"] = METRICS
    return made


def probes(vxland: Vxland) -> dict[str, dict[str, Any]]:
    """Return the results of the pings, by subnet."""
    return {peer["subnet"]: peer["probe"] for peer in ask_json(vxland, "peers")}


def wait_well(lab: Lab) -> None:
    """Return once every peer answers, full packets too."""

    def well() -> bool:
        return all(
            probe["state"] == "reachable" and probe["full_mtu"] == "passes" for probe in probes(lab.vxland).values()
        )

    wait_until(well, "all is well", lambda: f"{probes(lab.vxland)}\n{lab.vxland.said()}")


def wait_cause(lab: Lab, word: str) -> list[dict[str, Any]]:
    """Return the peers' pings once each has this cause."""

    def named() -> bool:
        return all(probe["cause"] and probe["cause"]["word"] == word for probe in probes(lab.vxland).values())

    wait_until(named, word, lambda: f"{probes(lab.vxland)}\n{lab.vxland.said()}")
    return list(probes(lab.vxland).values())


@contextmanager
def firewall(lab: Lab, rule: str) -> Iterator[None]:
    """A rule in node b's input chain."""
    chain = "add table inet probes; add chain inet probes in { type filter hook input priority 0; }"
    lab.b.ns.run("nft", f"{chain}; add rule inet probes in {rule}")
    try:
        yield
    finally:
        lab.b.ns.run("nft", "delete table inet probes")
