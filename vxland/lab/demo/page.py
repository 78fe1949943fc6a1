"""`vxland demo --report FILE`: the results as a page. It receives each step when the terminal does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vxland.forwarding.pump import COMPILED
from vxland.lab.cni import Network
from vxland.lab.demo.capture import Seen
from vxland.lab.demo.checks import Check
from vxland.lab.demo.dump import LEGEND, Dump, lay_out
from vxland.lab.demo.evidence import Across, DeviceFacts, FullSize, Hop, SameNode
from vxland.lab.demo.picture import PicturePlan, in_words, tall, wide
from vxland.lab.etcd import PREFIX, StoredLease
from vxland.lab.host import describe
from vxland.lab.namespaces import Lab
from vxland.lab.page import document
from vxland.lab.topology import Kind, LabRegistry
from vxland.lab.traffic import Throughput


@dataclass(frozen=True, slots=True)
class Sighting:
    """The followed packet at one hop: its bytes laid out, and microseconds since the first hop saw the request."""

    dump: Dump
    ttl: int | None
    at_us: float


@dataclass(frozen=True, slots=True)
class Stop:
    """One hop of the journey, with the request and the reply if they were captured there."""

    number: int
    hop: Hop
    request: Sighting | None
    reply: Sighting | None


class DemoPage:
    """Collects the steps; `render` makes the page of those that it received."""

    def __init__(self, lab: Lab, kinds: tuple[Kind, Kind], registry: LabRegistry) -> None:
        self._lab = lab
        self._kinds = kinds
        self._registry = registry
        self._steps: dict[str, Any] = {}

    def topology(self, kinds: tuple[Kind, Kind]) -> None:
        """Note that the nodes are up."""
        self._kinds = kinds

    def leases(self, leases: Sequence[StoredLease]) -> None:
        """Add the contents of etcd."""
        self._steps["leases"] = leases

    def network(self, network: Network) -> None:
        """Add how the CNI plugins attached the pods."""
        self._steps["network"] = network

    def devices(self, devices: Sequence[DeviceFacts]) -> None:
        """Add the three devices of both nodes."""
        self._steps["devices"] = devices

    def same_node(self, same: SameNode) -> None:
        """Add the ping between pods of one node."""
        self._steps["same"] = same

    def across(self, across: Across) -> None:
        """Add the ping between pods of two nodes, captured at every hop."""
        self._steps["across"] = across
        self._steps["stops"] = stops(across)

    def throughput(self, full: FullSize, there: Throughput, back: Throughput) -> None:
        """Add the full-size packets, and TCP."""
        pods = [node.pods[0] for node in self._lab.nodes]
        self._steps["full"] = full
        self._steps["tcp"] = [(*pods, there), (*reversed(pods), back)]
        self._steps["fastest"] = max(there.gbit_s, back.gbit_s)

    def render(self, checks: Sequence[Check], failure: str = "") -> str:
        """Return the page. `failure` is the reason if the run failed; then there are no checks."""
        empty = {"leases": None, "network": None, "devices": (), "same": None, "across": None, "stops": (), "tcp": ()}
        plan = PicturePlan(
            nodes=self._lab.nodes,
            kinds=self._kinds,
            registry=self._registry,
            namespaces={node.title: self._lab.namespace(node) for node in self._lab.nodes},
            hops={(stop.hop.title, stop.hop.device): stop.number for stop in self._steps.get("stops", ())},
        )
        return document.render(
            "demo.html.jinja",
            **(empty | {"full": None, "fastest": 0.0} | self._steps),
            checks=checks,
            failed=sum(not check.passed for check in checks),
            failure=failure,
            pictures={"wide": wide(plan), "tall": tall(plan)},
            words=in_words(plan),
            pods=[node.pods[0] for node in self._lab.nodes],
            facts=self._facts(),
            legend=LEGEND,
            store=PREFIX,
        )

    def _facts(self) -> dict[str, str]:
        here = describe()
        return {
            "Gear": "compiled" if COMPILED else "interpreted",
            "Node 1, node 2": ", ".join(self._kinds),
            "Registry": {"static": "configuration files", "etcd": "etcd"}[self._registry],
            "Machine": f"Linux {here['kernel']}, {here['cpus']} CPUs ({here['cpu']}), Python {here['python']}",
        }


def stops(across: Across) -> tuple[Stop, ...]:
    """Return every hop with the followed packet as captured there."""
    requests, replies = across.requests(), across.replies()
    zero = next((one.at_ns for one in requests if one), 0)
    return tuple(
        Stop(number, hop, _sighting(request, zero), _sighting(reply, zero))
        for number, (hop, request, reply) in enumerate(zip(across.hops, requests, replies, strict=True), 1)
    )


def _sighting(one: Seen | None, zero: int) -> Sighting | None:
    if one is None:
        return None
    ipv4 = one.packet.innermost.ipv4
    return Sighting(lay_out(one), ipv4.ttl if ipv4 else None, (one.at_ns - zero) / 1000)
