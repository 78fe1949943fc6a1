"""Every metric: its name, help and labels, and its value in a sample. docs/metrics.md explains them.

Label sets are bounded: by the reasons, verbs and causes of the code, by the one or two devices of a node, and by
MAX_PEERS.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from platform import python_version
from typing import get_args

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from vxland import __version__
from vxland.datapath.verdict import COUNTED
from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.pump import COMPILED
from vxland.node.sample import DeviceSample, NodeSample
from vxland.ops.commit import commit
from vxland.probes.reach import CauseLabel, Reach, State

MAX_PEERS = 250
"""VTEPs of a device with separate series, four each; the traffic of all others is summed up as OTHER."""

OTHER = "other"
_DEVICE = ("device",)
_BUILD = ("version", "commit", "gear", "python")

_REACH: tuple[tuple[str, str, Callable[[Reach], float | None]], ...] = (
    (
        "reachable",
        "1 while the peer answers pings.",
        lambda reach: None if reach.state == "unknown" else float(reach.state == "reachable"),
    ),
    ("rtt_seconds", "Smoothed round-trip time of pings.", lambda reach: reach.smoothed_s),
    ("probe_loss_ratio", "Share of the last 20 pings without an answer.", lambda reach: reach.loss),
    (
        "full_mtu",
        "1 while packets of the overlay MTU pass, 0 where they don't.",
        lambda reach: None if reach.full_mtu == "unknown" else float(reach.full_mtu == "passes"),
    ),
)
_BETTER_HIGH = frozenset({"reachable", "full_mtu"})


def families(sample: NodeSample, devices: Sequence[DeviceSample]) -> Iterator[Metric]:
    """Yield every metric family of a node and its overlay devices."""
    yield from ProcessCollector(registry=None).collect()
    build = GaugeMetricFamily("vxland_build_info", "1, with the build's properties.", labels=_BUILD)
    build.add_metric([__version__, commit(), "compiled" if COMPILED else "interpreted", python_version()], 1)
    yield build
    yield from _node(sample)
    yield from _devices(devices)


def _node(sample: NodeSample) -> Iterator[Metric]:
    """Yield the metrics of the node as a whole."""
    for counted in COUNTED:
        family = CounterMetricFamily(counted.metric, counted.help, labels=["direction"])
        for direction, done in sample.directions.items():
            family.add_metric([direction], done.counts[counted.name])
        yield family
    drops = CounterMetricFamily("vxland_drops", "Frames dropped; docs/drops.md.", labels=["direction", "reason"])
    for direction, done in sample.directions.items():
        for reason, count in done.drops.items():
            drops.add_metric([direction, reason], count)
    yield drops
    for what, text in (
        ("frames", "Inner frames that programs of the fast path carried."),
        ("bytes", "Bytes of inner frames that programs of the fast path carried."),
    ):
        by_programs = CounterMetricFamily(f"vxland_fast_path_{what}", text, labels=["direction"])
        for direction, done in sample.carried.items():
            by_programs.add_metric([direction], done.counts[what])
        yield by_programs
    registry = sample.registry
    away_s = time.monotonic() - registry.since if registry.error else 0.0
    for name, text, value in (
        ("vxland_ready", "1 while /readyz says so.", not sample.not_ready),
        ("vxland_leases", "Leases of other nodes in the table.", sample.leases),
        ("vxland_registry_readable", "1 while the registry can be read.", not registry.error),
        (
            "vxland_registry_unreadable_seconds",
            "Seconds since it became unreadable; 0 while it can be read.",
            away_s,
        ),
        (
            "vxland_registry_quarantined",
            "Entries of the registry that are not understood.",
            len(registry.quarantined),
        ),
        ("vxland_event_loop_lag_seconds", "Longest delay of the event loop within a minute.", sample.loop_lag_s),
        (
            "vxland_event_loop_held_seconds",
            "Longest time that one task held the event loop since the start.",
            sample.loop_held_s,
        ),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))
    spent = CounterMetricFamily(
        "vxland_cpu_seconds", "CPU time used, waited for, and throttled at a limit.", labels=["what"]
    )
    for what, seconds in sample.cpu.items():
        spent.add_metric([what], seconds)
    yield spent
    restored = CounterMetricFamily("vxland_firewall_mended", "Times that rules were restored.", labels=["family"])
    failed = CounterMetricFamily("vxland_firewall_failed", "Times that restoring them failed.", labels=["family"])
    for version, (put_back, refused) in sample.firewall.items():
        restored.add_metric([version], put_back)
        failed.add_metric([version], refused)
    yield from (restored, failed)


def _devices(found: Sequence[DeviceSample]) -> Iterator[Metric]:
    """Yield the metrics of each overlay device."""
    offloads = GaugeMetricFamily("vxland_offload", "1 while the offload is in use.", labels=["device", "offload"])
    fast_path = GaugeMetricFamily("vxland_fast_path", "1 while programs carry frames.", labels=_DEVICE)
    vteps = GaugeMetricFamily("vxland_vteps", "VTEPs of other nodes in the table.", labels=_DEVICE)
    mtu = GaugeMetricFamily("vxland_underlay_mtu_bytes", "MTU of the underlay's interface.", labels=_DEVICE)
    narrower = GaugeMetricFamily(
        "vxland_narrow_paths", "VTEPs whose path carries less than the interface.", labels=["device"]
    )
    disbelieved = GaugeMetricFamily(
        "vxland_disbelieved_paths", "VTEPs whose path MTU, as ICMP errors give it, is not believed.", labels=["device"]
    )
    not_forwarded = GaugeMetricFamily(
        "vxland_not_forwarded", "Reasons why the node forwards no packets of pods.", labels=["device"]
    )
    tap = CounterMetricFamily(
        "vxland_tap_dropped", "Frames lost because the TAP's queues were full.", labels=["device"]
    )
    below = CounterMetricFamily(
        "vxland_underlay_dropped", "UDP sends lost because the underlay's queue was full.", labels=["device"]
    )
    full = CounterMetricFamily("vxland_socket_full", "Reads lost for a full receiving socket.", labels=_DEVICE)
    checksums = CounterMetricFamily(
        "vxland_outer_checksum_errors", "Datagrams with a bad outer UDP checksum.", labels=["device"]
    )
    filtered = CounterMetricFamily(
        "vxland_input_filtered", "Datagrams of unknown senders that nftables dropped.", labels=["device"]
    )
    for device in found:
        for offload, used in device.offloads.items():
            offloads.add_metric([device.name, offload], used)
        fast_path.add_metric([device.name], device.fast_path)
        vteps.add_metric([device.name], len(device.peers))
        mtu.add_metric([device.name], device.underlay_mtu)
        narrower.add_metric([device.name], device.narrower)
        not_forwarded.add_metric([device.name], device.not_forwarded)
        disbelieved.add_metric([device.name], device.disbelieved)
        if device.tap_dropped is not None:
            tap.add_metric([device.name], device.tap_dropped)
        if device.underlay_dropped is not None:
            below.add_metric([device.name], device.underlay_dropped)
        full.add_metric([device.name], device.socket_full)
        if device.bad_checksums is not None:
            checksums.add_metric([device.name], device.bad_checksums)
        if device.filtered is not None:
            filtered.add_metric([device.name], device.filtered)
    yield from (offloads, fast_path, vteps, mtu, narrower, disbelieved, not_forwarded)
    yield from (tap, below, full, checksums, filtered)
    yield from _sockets(found)
    yield from _reconciling(found)
    yield from _peers(found)
    yield from _reach(found)


def _sockets(found: Iterable[DeviceSample]) -> Iterator[Metric]:
    labels = ["device", "queue"]
    waiting = GaugeMetricFamily("vxland_socket_queue_bytes", "Bytes that wait in a receiving socket.", labels=labels)
    room = GaugeMetricFamily("vxland_socket_queue_limit_bytes", "Bytes that it can hold.", labels=labels)
    lost = CounterMetricFamily("vxland_socket_overflows", "Datagrams lost there, for any cause.", labels=labels)
    for device in found:
        for number, queue in enumerate(device.sockets):
            waiting.add_metric([device.name, str(number)], queue.waiting)
            room.add_metric([device.name, str(number)], queue.room)
            lost.add_metric([device.name, str(number)], queue.dropped)
    yield from (waiting, room, lost)


def _reconciling(found: Iterable[DeviceSample]) -> Iterator[Metric]:
    passes = CounterMetricFamily("vxland_reconcile_passes", "Comparisons with the kernel's state.", labels=_DEVICE)
    reads = CounterMetricFamily("vxland_reconcile_reads", "Reads of all of the kernel's state.", labels=_DEVICE)
    asked = CounterMetricFamily("vxland_netlink_requests", "Requests to the kernel, by netlink.", labels=_DEVICE)
    blind = CounterMetricFamily(
        "vxland_reconcile_failed_reads", "Failed reads of the kernel's state.", labels=["device"]
    )
    pending = GaugeMetricFamily("vxland_reconcile_pending", "Actions that wait, or failed.", labels=_DEVICE)
    actions = CounterMetricFamily("vxland_reconcile_actions", "Actions done.", labels=["device", "verb", "cause"])
    errors = CounterMetricFamily("vxland_reconcile_errors", "Actions refused.", labels=["device", "verb"])
    for device in found:
        done = device.reconciling
        passes.add_metric([device.name], done.passes)
        reads.add_metric([device.name], done.reads)
        asked.add_metric([device.name], done.requests)
        blind.add_metric([device.name], done.failed_reads)
        pending.add_metric([device.name], done.pending)
        for (verb, cause), count in done.actions.items():
            actions.add_metric([device.name, verb, cause], count)
        for verb, count in done.errors.items():
            errors.add_metric([device.name, verb], count)
    yield from (passes, reads, asked, blind, pending, actions, errors)


def _peers(found: Iterable[DeviceSample]) -> Iterator[Metric]:
    labels = ["device", "peer", "direction"]
    frames = CounterMetricFamily("vxland_peer_frames", "Inner frames to or from a peer.", labels=labels)
    nbytes = CounterMetricFamily("vxland_peer_bytes", "Bytes of inner frames to or from a peer.", labels=labels)
    for device in found:
        for peer, traffic in by_address(device).items():
            frames.add_metric([device.name, peer, "encap"], traffic.encap_frames)
            frames.add_metric([device.name, peer, "decap"], traffic.decap_frames)
            nbytes.add_metric([device.name, peer, "encap"], traffic.encap_bytes)
            nbytes.add_metric([device.name, peer, "decap"], traffic.decap_bytes)
    yield from (frames, nbytes)


def _reach(found: Iterable[DeviceSample]) -> Iterator[Metric]:
    """Yield the results of pings: the number of peers in each state, and each of the first MAX_PEERS VTEPs."""
    probes = CounterMetricFamily("vxland_probes", "Pings of peers, by outcome.", labels=["device", "outcome"])
    states = GaugeMetricFamily("vxland_peers", "Leases of peers by state of pings.", labels=["device", "state"])
    causes = GaugeMetricFamily("vxland_peers_troubled", "Leases of peers with a problem.", labels=["device", "cause"])
    families = {
        name: GaugeMetricFamily(f"vxland_peer_{name}", text, labels=["device", "peer"]) for name, text, _ in _REACH
    }
    for device in found:
        for outcome, count in device.probing.outcomes.items():
            probes.add_metric([device.name, outcome], count)
        if device.probing.off:
            continue
        reaches = device.probing.peers.values()
        for state in get_args(State):
            states.add_metric([device.name, state], sum(reach.state == state for reach in reaches))
        found_causes = Counter(reach.cause.label for reach in reaches if reach.cause is not None)
        for word in get_args(CauseLabel):
            causes.add_metric([device.name, word], found_causes[word])
        for peer, seen in _seen(device).items():
            for name, _, value_of in _REACH:
                values = [value for reach in seen if (value := value_of(reach)) is not None]
                if values:  # the worse of a peer's two families
                    worst = min(values) if name in _BETTER_HIGH else max(values)
                    families[name].add_metric([device.name, peer], worst)
    yield from (probes, states, causes, *families.values())


def _seen(device: DeviceSample) -> dict[str, list[Reach]]:
    """Return the reachability of the first MAX_PEERS VTEPs, ordered by address; one may have a lease per family."""
    found: dict[str, list[Reach]] = {}
    for lease in sorted(device.probing.peers, key=lambda lease: int(lease.vtep.address)):
        peer = str(lease.vtep.address)
        if peer in found or len(found) < MAX_PEERS:
            found.setdefault(peer, []).append(device.probing.peers[lease])
    return found


def by_address(device: DeviceSample) -> dict[str, PeerTraffic]:
    """Return traffic by VTEP address: the first MAX_PEERS, ordered by address, then OTHER for the rest."""
    found: dict[str, PeerTraffic] = {}
    for vtep in sorted(device.peers, key=lambda vtep: int(vtep.address)):
        name = str(vtep.address)
        if name not in found and len(found) >= MAX_PEERS:
            name = OTHER
        found[name] = found.get(name, PeerTraffic()).plus(device.peers[vtep])
    return found
