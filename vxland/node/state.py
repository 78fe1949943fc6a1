"""State of one node: its planes, leases, firewall and start-up stage, and why it may not be ready.

The node (node/daemon.py) owns it and changes it through the methods below. The API reads snapshot(), sample() and
devices(); no reader gets a collection that it could change.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence

from vxland.config import Settings
from vxland.firewall.sync import FirewallSync
from vxland.forwarding.counts import Direction, by_direction
from vxland.kernel.cpu import cpu
from vxland.model.lease import Change, Delta, Lease, RegistryHealth, Snapshot, Subnet
from vxland.model.slices import in_slices
from vxland.node.device_sample import sample_device
from vxland.node.plane import Plane
from vxland.node.readiness import forwarding_problems, peer_problems, why_not_ready
from vxland.node.sample import DeviceSample, NodeSample
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.loop_hold import LoopHold
from vxland.ops.loop_lag import LoopLag
from vxland.ops.notify import notify
from vxland.reconcile.addresses import UnderlayAddresses
from vxland.registry.held_leases import HeldLeases
from vxland.registry.protocol import Registry


class NodeState:
    """State of a node with these settings and this registry, before its first stage."""

    def __init__(self, settings: Settings, registry: Registry, hold: LoopHold | None = None) -> None:
        self._settings = settings
        self._registry = registry
        self._planes: tuple[Plane, ...] = ()
        self._firewall: FirewallSync | None = None
        self._addresses: UnderlayAddresses | None = None
        self._leases = HeldLeases()
        self._since: dict[Subnet, float] = {}
        self._stage = "starting"
        self._lag = LoopLag()
        self._hold = hold or LoopHold()
        self._past_directions: Mapping[str, Direction] = {}  # of planes that were closed
        self._past_carried: Mapping[str, Direction] = {}
        self._past_queues: Mapping[str, Counter[str]] = {}
        self._errnos = {"encap": 0, "decap": 0}

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def registry(self) -> Registry:
        """The registry in use."""
        return self._registry

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes whose device is open."""
        return self._planes

    @property
    def leases(self) -> Collection[Lease]:
        """The leases of the other nodes, one on each subnet."""
        return self._leases

    @property
    def firewall(self) -> FirewallSync | None:
        """The firewall's rules; None while none are wanted."""
        return self._firewall

    @property
    def lag(self) -> LoopLag:
        """The monitor of the event loop's delays."""
        return self._lag

    def enter_stage(self, stage: str) -> None:
        """Note the stage of the start, for readiness and the service manager. Empty: the node has started."""
        self._stage = stage
        if stage:
            notify(status=stage)

    def apply_settings(self, settings: Settings) -> None:
        """Replace the settings, after a reload."""
        self._settings = settings

    def add_plane(self, plane: Plane) -> None:
        """Add a plane whose device is open."""
        self._planes += (plane,)

    def set_firewall(self, firewall: FirewallSync | None) -> None:
        """Note the firewall's rules, or that none are wanted."""
        self._firewall = firewall

    def set_addresses(self, addresses: UnderlayAddresses) -> None:
        """Note the monitor of this node's underlay addresses."""
        self._addresses = addresses

    async def follow(self, event: Snapshot | Delta) -> Change:
        """Apply an event of the registry to the leases, and return what it changes. Calls must not overlap."""
        return await in_slices(self._follow(event))

    def _follow(self, event: Snapshot | Delta) -> Generator[None, None, Change]:
        change = yield from self._leases.steps(event)
        now = time.monotonic()
        for lease in change.removed:
            self._since.pop(lease.subnet, None)
            yield
        for lease in change.added:
            self._since[lease.subnet] = now
            yield
        return change

    def retire(self) -> None:
        """Drop planes, firewall and leases, which end, and keep what they counted: counters never go back."""
        self._past_directions, self._past_carried = self._directions(), self._carried()
        self._past_queues = self._queue_drops()
        self._planes = ()
        self._firewall = self._addresses = None
        self._forget_leases()

    def restart(self, registry: Registry) -> None:
        """Go on with another registry, after retire()."""
        self._registry = registry
        self._forget_leases()  # that of the former registry may have changed them after retire()

    def _forget_leases(self) -> None:
        self._leases, self._since = HeldLeases(), {}

    def sample(self) -> NodeSample:
        """Return counters, and why the node may not be ready."""
        health = self._registry.health
        firewall = {} if self._firewall is None else self._firewall.counters.by_name()
        lost = forwarding_problems(
            (each.cause, each.remedy) for plane in self._planes for each in plane.forwarding.problems
        )
        problems = (*lost, *peer_problems([plane.prober.probing() for plane in self._planes]))
        now = cpu()
        spent = {"used": now.used_s, "waited": now.waited_s, "throttled": now.throttled_s}
        return NodeSample(
            self._directions(),
            len(self._leases),
            self._not_ready(health),
            health,
            self._lag.worst_s,
            firewall,
            spent,
            self._carried(),
            problems,
            self._hold.longest_s,
            self._hold.holder,
        )

    def devices(self) -> Sequence[DeviceSample]:
        """Return the counters of each open device."""
        return [sample_device(plane) for plane in self._planes]

    def snapshot(self) -> NodeSnapshot:
        """Return a read-only view of the node now."""
        firewall = None if self._firewall is None else self._firewall.error
        iptables = "" if self._firewall is None else self._firewall.backend
        return NodeSnapshot(
            self._settings,
            self.sample(),
            self._planes,
            tuple(self._leases),
            self._since.copy(),
            self.drops(),
            firewall,
            iptables,
            self._registry.pod_names,
        )

    def status(self) -> str:
        """Return one line for the service manager."""
        health = self._registry.health
        instead = f"; the store is unreachable: {health.cached}" if health.cached else ""
        return self._not_ready(health) or f"forwarding, leases of other nodes: {len(self._leases)}{instead}"

    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Return dropped frames by direction and reason: vxland's own drops, and those of full queues."""
        found = {name: Counter(done.drops) for name, done in self._directions().items()}
        for name, counts in self._queue_drops().items():
            found[name].update(counts)
        return found

    def last_errnos(self) -> Mapping[str, int]:
        """Return the kernel's last refusal by direction, 0 for none: of a plane refused since the last call, if any.

        Without that, a dual-stack node would report an earlier fault of its other plane.
        """
        for plane in self._planes:
            self._errnos |= plane.workers.new_errnos()
        return dict(self._errnos)

    def _not_ready(self, health: RegistryHealth) -> str:
        firewall = "" if self._firewall is None else self._firewall.error
        address = "" if self._addresses is None else self._addresses.problem
        devices = (plane.not_ready for plane in self._planes)
        return why_not_ready(self._stage, self._lag.problem, address, health, firewall, devices, time.monotonic())

    def _directions(self) -> Mapping[str, Direction]:
        parts = [part for plane in self._planes for part in (plane.workers.directions(), plane.fast_path.directions())]
        return by_direction([self._past_directions, *parts])

    def _carried(self) -> Mapping[str, Direction]:
        """Return the part of _directions() that programs carried."""
        return by_direction([self._past_carried, *(plane.fast_path.directions() for plane in self._planes)])

    def _queue_drops(self) -> Mapping[str, Counter[str]]:
        """Return frames lost in full queues, by direction and queue."""
        found = {name: Counter(counts) for name, counts in self._past_queues.items()}
        for plane in self._planes:
            for name, counts in plane.queues.by_direction().items():
                found.setdefault(name, Counter()).update(counts)
        return found
