"""Commands status, peers, stats, plan and reload."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import get_args

from vxland import __version__
from vxland.config import Settings
from vxland.fastpath.entries import MOST
from vxland.forwarding.counts import Direction, PeerTraffic
from vxland.forwarding.pump import COMPILED
from vxland.kernel.cpu import cpu
from vxland.kernel.privilege import held
from vxland.model.errors import ConfigError
from vxland.model.lease import Address, Lease, Subnet
from vxland.node.plane import Plane
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.commit import commit
from vxland.probes.reach import Cause, Probing, State
from vxland.reconcile.action_log import ReconcileCounters as Reconciled
from vxland.reconcile.believed_mtu import PathMtu

QUARANTINED = 100
"""Quarantined entries of the registry that status names; a store may have thousands."""

FRESH_S = 2.0
"""Maximum age of the check of the node's own forwarding; a new check runs several programs."""

_UNWATCHED = (
    "path MTUs and the address are not watched: the underlay is in another network namespace (underlay.sockets: "
    "inherited)"
)

PEERS_A_LINE = 256  # peers that the event loop formats at a time: 16,384 take 0.1 s

_COMMIT = commit()  # now: a confined daemon could not run git


class NodeAnswers:
    """Answers of the node that `read_state()` returns."""

    def __init__(
        self, read_state: Callable[[], NodeSnapshot], reload: Callable[[], Awaitable[list[ConfigError]]]
    ) -> None:
        self._read_state = read_state
        self._reload = reload
        self._started = time.monotonic()

    async def status(self) -> object:
        """Return the state of the node in one object, without its peers."""
        for plane in self._read_state().planes:
            await plane.forwarding.refresh(FRESH_S)
        node = self._read_state()
        health, now = node.sample.registry, time.monotonic()
        return {
            "version": __version__,
            "commit": _COMMIT,
            "pid": os.getpid(),
            "gear": "compiled" if COMPILED else "interpreted",
            "uptime_s": now - self._started,
            "process": asdict(held()),
            "cpu": asdict(cpu()),
            "event_loop": {
                "held_s": node.sample.loop_held_s,
                "held_by": node.sample.loop_holder,
                "late_s": node.sample.loop_lag_s,
            },
            "not_ready": node.sample.not_ready,
            "troubles": list(node.sample.troubles),
            "fast_path": {
                "on": any(not plane.fast_path.off for plane in node.planes),
                "off": {plane.settings.device: plane.fast_path.off for plane in node.planes if plane.fast_path.off},
            },
            "planes": [_plane(plane, node.settings) for plane in node.planes],
            "registry": {
                "kind": node.settings.registry.kind,
                "leases": node.sample.leases,
                "error": health.error,
                "for_s": now - health.since if health.since else None,
                "remembered": health.cached,
                "quarantined": dict(islice(sorted(health.quarantined.items()), QUARANTINED)),
                "quarantined_more": max(0, len(health.quarantined) - QUARANTINED),
            },
            "firewall": {"wanted": node.firewall is not None, "error": node.firewall or "", "iptables": node.iptables},
        }

    async def peers(self) -> AsyncGenerator[object]:
        """Yield lists of peers, one peer for each lease, by family and subnet, with the traffic of its VTEP."""
        node, now = self._read_state(), time.monotonic()
        devices = {version: plane.settings.device for plane in node.planes for version in plane.versions}
        reaches = {v: (plane.prober.probing(), plane.mtu) for plane in node.planes for v in plane.versions}
        traffic = {vtep: done for plane in node.planes for vtep, done in plane.workers.telemetry.peers().items()}
        paths = {v: (path, plane.underlay.mtu) for plane in node.planes for v, path in plane.path_mtus.known.items()}
        nats = dict(node.settings.security.sources)
        leases = iter(sorted(node.leases, key=lambda lease: (lease.subnet.version, lease.subnet)))
        while some := list(islice(leases, PEERS_A_LINE)):
            yield [
                _peer(
                    lease,
                    devices.get(lease.subnet.version, ""),
                    now - node.since.get(lease.subnet, now),
                    traffic.get(lease.vtep, PeerTraffic()),
                    nats,
                )
                | {
                    "probe": _probe(lease, *reaches.get(lease.subnet.version, (Probing(), 0)), now),
                    "path": _path(*paths[lease.vtep.address], now) if lease.vtep.address in paths else None,
                }
                for lease in some
            ]

    async def stats(self) -> object:
        """Return counters since start, by direction; `at_s` is a monotonic time, for rates.

        Drops are vxland's own and those of full queues.
        """
        node = self._read_state()
        nothing = Direction()  # before there is a device
        return (
            {"at_s": time.monotonic()}
            | {
                name: _done(node.sample.directions.get(name, nothing), node.drops.get(name, {}))
                for name in ("encap", "decap")
            }
            | {
                "fast_path": {
                    name: {what: node.sample.carried.get(name, nothing).counts[what] for what in ("frames", "bytes")}
                    for name in ("encap", "decap")
                }
            }
        )

    async def plan(self) -> object:
        """Return the changes that the reconciler would make now, as commands, by device."""
        planes = self._read_state().planes
        return {plane.settings.device: [str(action) for action in await plane.reconciler.preview()] for plane in planes}

    async def reload(self) -> object:
        """Read the configuration again; `problems` are the reasons why it is refused."""
        problems = await self._reload()
        return {"problems": [{"key": each.key, "value": each.value, "remedy": each.remedy} for each in problems]}


def _plane(plane: Plane, settings: Settings) -> object:
    own, underlay = plane.settings, plane.underlay
    return {
        "device": own.device,
        "vni": own.overlay.vni,
        "port": own.overlay.port,
        "mac": str(plane.mac),
        "mtu": plane.mtu,
        "networks": [str(network) for network in own.networks],
        "subnets": [str(subnet) for subnet in sorted(plane.own, key=lambda subnet: subnet.version)],
        "underlay": {
            "interface": underlay.interface,
            "address": str(underlay.address),
            "mtu": underlay.mtu,
            "narrower": {str(vtep): mtu for vtep, mtu in plane.path_mtus.narrower.items()},
            "disbelieved": {str(vtep): mtu for vtep, mtu in plane.path_mtus.distrusted.items()},
            "advertised": str(plane.published),
            "serves": [str(address) for address in plane.public.served],
            "unserved": plane.public.problem,
            "unwatched": _UNWATCHED if underlay.elsewhere else "",
        },
        "outer": asdict(own.outer),
        "source_check": settings.security.source_check.label,
        "input_filter": {
            "kind": own.security.input_filter,
            "error": plane.source_filter.problem,
            "dropped": plane.source_filter.dropped,
        },
        "forwarding": {
            "problems": [asdict(problem) for problem in plane.forwarding.problems],
            "unknown": plane.forwarding.unknown,
        },
        "workers": plane.workers.count,
        "fast_path": {
            "on": not plane.fast_path.off,
            "off": plane.fast_path.off,
            "superframes": plane.fast_path.superframes and not plane.fast_path.off,
            "diverted": plane.fast_path.is_diverted,
            "entries": plane.fast_path.fill(),
            "entries_most": MOST,
        },
        "offloads": dict(plane.workers.offloads),
        "offloads_off": _offloads_off(plane),
        "reconcile": _reconcile(plane.reconciler.counters) | {"requests": plane.netlink.requests},
        "probes": _probes(plane.prober.probing()),
        "responder": {
            "off": plane.responder.off,
            "answered": plane.responder.answered,
            "refused": plane.responder.refused,
        },
    }


def _offloads_off(plane: Plane) -> dict[str, str]:
    """Return why each offload is not in use; `join_udp` only if the settings ask for it."""
    why = "this kernel has none" if COMPILED else "the interpreted gear moves frame by frame"
    wanted, off = plane.settings.datapath.offloads, {}
    for name, got in plane.workers.offloads.items():
        if name in plane.given_up:
            off[name] = f"the kernel refused it: {plane.given_up[name]}"
        elif wanted.is_off(name):
            off[name] = "datapath.offloads has it off"
        elif wanted.wants(name) and int(got) == (name == "udp_segment"):
            off[name] = why
    return off


def _reconcile(counters: Reconciled) -> dict[str, object]:
    changes: dict[str, int] = {}
    for (verb, _), count in counters.repaired.items():
        changes[verb] = changes.get(verb, 0) + count
    return {  # not asdict(): it would count the items of a Counter
        "passes": counters.passes,
        "reads": counters.reads,
        "failed_reads": counters.failed_reads,
        "mended": changes,
        "failed": dict(counters.failed),
        "pending": counters.pending,
    }


def _probe(lease: Lease, probing: Probing, mtu: int, now: float) -> object:
    """Return the results of pings of a peer; None if no peer is pinged."""
    if probing.off:
        return None
    reach = probing.reach(lease)
    return {
        "state": reach.state,
        "for_s": now - reach.since if reach.since else None,
        "rtt_s": reach.rtt_s,
        "rtt_min_s": reach.min_s,
        "rtt_smoothed_s": reach.smoothed_s,
        "loss": reach.loss,
        "full_mtu": reach.full_mtu,
        "mtu": mtu,
        "passes": reach.passes or None,
        "cause": None if reach.cause is None else _cause(reach.cause),
    }


def _path(path: PathMtu, interface_mtu: int, now: float) -> object:
    """Return the MTU of the path to a VTEP in bytes, and its source."""
    return {
        "mtu": path.mtu,
        "interface_mtu": interface_mtu,
        "source": path.source,
        "disbelieved": path.claimed,
        "for_s": now - path.since,
    }


def _cause(cause: Cause) -> object:
    return {"word": cause.label, "happened": cause.happened, "remedy": cause.remedy}


def _probes(probing: Probing) -> object:
    """Return the number of peers in each state, and why no peer is pinged."""
    states = Counter(reach.state for reach in probing.peers.values())
    return {
        "off": probing.off,
        **{state: states[state] for state in get_args(State)},
        "mtu_holes": sum(reach.full_mtu == "hole" for reach in probing.peers.values()),
        "outcomes": dict(probing.outcomes),
    }


def _peer(
    lease: Lease, device: str, age_s: float, done: PeerTraffic, nats: Mapping[Address, tuple[Subnet, ...]]
) -> dict[str, object]:
    return {
        "subnet": str(lease.subnet),
        "vtep": str(lease.vtep.address),
        "node": lease.node,
        "sources": [str(source) for source in (*lease.sources, *nats.get(lease.vtep.address, ()))],
        "mac": str(lease.vtep.mac),
        "device": device,
        "age_s": age_s,
        "traffic": {
            "encap": {"frames": done.encap_frames, "bytes": done.encap_bytes},
            "decap": {"frames": done.decap_frames, "bytes": done.decap_bytes},
        },
    }


def _done(done: Direction, drops: Mapping[str, int]) -> object:
    return {**done.counts, "drops": drops}
