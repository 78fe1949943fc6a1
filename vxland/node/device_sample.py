"""Counters of one overlay device, its sockets and its peers, as metrics show them."""

from __future__ import annotations

from vxland.kernel.kernel_drops import bad_checksums, lost_below
from vxland.node.plane import Plane
from vxland.node.sample import DeviceSample, Reconciling


def sample_device(plane: Plane) -> DeviceSample:
    """Return what metrics show of a plane's device now."""
    version = None if plane.underlay.elsewhere else plane.underlay.address.version
    counters = plane.reconciler.counters
    return DeviceSample(
        name=plane.settings.device,
        offloads={
            name: int(got) > (name == "udp_segment") and name not in plane.given_up
            for name, got in plane.workers.offloads.items()
        },
        peers=plane.workers.telemetry.peers(),
        sockets=plane.workers.queues(),
        underlay_mtu=plane.underlay.mtu,
        narrower=len(plane.path_mtus.narrower),
        disbelieved=len(plane.path_mtus.distrusted),
        not_forwarded=len(plane.forwarding.problems),
        tap_dropped=plane.queues.at_tap,
        underlay_dropped=lost_below(version),
        socket_full=plane.queues.by_direction()["decap"]["socket_queue_full"],
        bad_checksums=bad_checksums(version),
        fast_path=not plane.fast_path.off,
        filtered=plane.source_filter.dropped,
        reconciling=Reconciling(
            passes=counters.passes,
            reads=counters.reads,
            failed_reads=counters.failed_reads,
            actions={(verb, cause): count for (verb, cause), count in tuple(counters.repaired.items())},
            errors=dict(counters.failed),
            pending=counters.pending,
            requests=plane.netlink.requests,
        ),
        probing=plane.prober.probing(),
    )
