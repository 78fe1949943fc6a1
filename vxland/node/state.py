"""How a node stands: what it has done, what it waits for, why it may not be ready. Whoever asks is told from here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from vxland.config import Settings
from vxland.firewall.sync import FirewallSync
from vxland.forwarding.counts import Direction
from vxland.kernel.cpu import cpu
from vxland.model.lease import Delta, Lease, RegistryHealth, Snapshot
from vxland.node.plane import Plane
from vxland.node.readiness import in_the_way, troubles, why_not_ready
from vxland.node.sample import NodeSample
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.loop_lag import LoopLag
from vxland.ops.notify import notify
from vxland.reconcile.addresses import UnderlayAddresses
from vxland.registry.protocol import Registry, followed


class NodeState:
    """Of a node with these settings; the daemon keeps the attributes true. `planes` are those with an open device."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.planes: list[Plane] = []
        self.rules: FirewallSync | None = None
        self.addresses: UnderlayAddresses | None = None
        self.leases: frozenset[Lease] = frozenset()
        self.lag = LoopLag()
        self.registry = registry
        self._past: dict[str, Direction] = {}
        self._past_queues: dict[str, Counter[str]] = {}
        self._since: dict[Lease, float] = {}
        self._stage = "starting"

    def enter(self, stage: str) -> None:
        """Note what the node is at while it starts; readiness and systemd tell it. Empty: it has started."""
        self._stage = stage
        if stage:
            notify(status=stage)

    def retire(self) -> None:
        """Forget the planes, which end, but for what they have counted: the node starts anew in this process."""
        queues: dict[str, Counter[str]] = {}
        every: list[Mapping[str, Mapping[str, int]]] = [self._past_queues]
        for counts in every + [plane.queues.by_direction() for plane in self.planes]:
            for name, lost in counts.items():
                queues.setdefault(name, Counter()).update(lost)
        self._past, self._past_queues = dict(self._directions()), queues
        self.planes.clear()
        self.rules, self.addresses = None, None
        self.leases, self._since = frozenset(), {}

    def follow(self, event: Snapshot | Delta) -> None:
        """Note the leases after `event`."""
        self.leases = followed(self.leases, event)
        now = time.monotonic()
        self._since = {lease: self._since.get(lease, now) for lease in self.leases}

    def sample(self) -> NodeSample:
        """What this node has done, and why it may not be ready."""
        health = self.registry.health
        rules = {} if self.rules is None else self.rules.counters.by_name()
        lost = in_the_way((each.cause, each.remedy) for plane in self.planes for each in plane.forwarding.problems)
        silent = (*lost, *troubles([plane.prober.probing() for plane in self.planes]))
        reason = self._not_ready(health)
        now = cpu()
        spent = {"used": now.used_s, "waited": now.waited_s, "throttled": now.throttled_s}
        return NodeSample(self._directions(), len(self.leases), reason, health, self.lag.worst_s, rules, spent, silent)

    def look(self) -> NodeSnapshot:
        """What the control socket shows of this node."""
        firewall = None if self.rules is None else self.rules.error
        iptables = "" if self.rules is None else self.rules.backend
        return NodeSnapshot(
            self.settings, self.sample(), tuple(self.planes), self._since, self.drops(), firewall, iptables
        )

    def status(self) -> str:
        """One line for the service manager."""
        health = self.registry.health
        instead = f"; the store is away: {health.remembered}" if health.remembered else ""
        return self._not_ready(health) or f"forwarding, leases of other nodes: {len(self.leases)}{instead}"

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Dropped frames by direction and reason: vxland's own drops, and those that full queues cost."""
        found = {name: Counter(done.drops) for name, done in self._directions().items()}
        for name, lost in self._past_queues.items():
            found[name].update(lost)
        for plane in self.planes:
            for name, counts in plane.queues.by_direction().items():
                found[name].update(counts)
        return found

    def last_errnos(self) -> Mapping[str, int]:
        """The kernel's last refusal by direction; 0 where there was none."""
        errnos = [plane.workers.last_errnos() for plane in self.planes]
        return {name: next((each[name] for each in errnos if each[name]), 0) for name in ("encap", "decap")}

    def _not_ready(self, health: RegistryHealth) -> str:
        rules = "" if self.rules is None else self.rules.error
        gone = "" if self.addresses is None else self.addresses.problem
        devices = (plane.not_ready for plane in self.planes)
        return why_not_ready(self._stage, self.lag.problem, gone, health, rules, devices, time.monotonic())

    def _directions(self) -> Mapping[str, Direction]:
        return Direction.joined([self._past, *(plane.workers.directions() for plane in self.planes)])
