"""The kernel's drop counters for full queues, bad checksums and nftables, in front of vxland. Read from proc(5).

A UDP socket's own counter (sk_drops) mixes two causes: a full queue and a bad checksum (net/ipv4/udp.c). Short
datagrams with a bad checksum, and IPv6 ones without any, do not count there at all. The network namespace's counters
have a counter for each cause, for the sockets of all programs together; both are needed to separate them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_DEVICES = Path("/proc/thread-self/net/dev")
_SNMP = Path("/proc/thread-self/net/snmp")
_SNMP6 = Path("/proc/thread-self/net/snmp6")
_TX_DROPPED = 11  # column of net/dev, behind the device's name


class QueueDrops:
    """Packets of one overlay device that the kernel dropped since this was made, by the reasons of inspect/reasons.py.

    `sockets()` is the receiving sockets' own counter. `filtered()` counts the datagrams that nftables dropped before
    them, None without a filter. `underlay_version` is None if the underlay is in another network namespace, whose
    counters are not here: a checksum error then counts as a full queue. Unknown counters stay 0.
    """

    def __init__(
        self,
        device: str,
        underlay_version: int | None,
        sockets: Callable[[], int],
        filtered: Callable[[], int | None],
    ) -> None:
        self._device, self._version, self._sockets = device, underlay_version, sockets
        self._filtered = filtered
        self._earlier = 0  # lost by devices of this name that were deleted since
        self._before = self._seen = self._counts()

    @property
    def at_tap(self) -> int:
        """Frames lost because the device's queues were full, those of earlier devices of the name included."""
        self._update()
        return self._seen[0]

    def renewed(self) -> None:
        """Continue the count: the kernel starts at 0 for a new device of the name."""
        self._earlier = self._seen[0]

    def by_direction(self) -> dict[str, dict[str, int]]:
        """Return direction -> reason of inspect/reasons.py -> count."""
        self._update()
        since = (now - before for now, before in zip(self._seen, self._before, strict=True))
        tap, below, sockets, full, checksum = since
        full = min(sockets, full)
        lost = {
            "encap": {"tap_queue_full": tap, "underlay_queue_full": below},
            "decap": {
                "socket_queue_full": full,
                "outer_checksum": checksum,
                "input_filtered": self._filtered() or 0,
            },
        }
        nothing = dict.fromkeys((word for counts in lost.values() for word in counts), 0)
        return {direction: nothing | counts for direction, counts in lost.items()}

    def _update(self) -> None:
        self._seen = [
            max(pair) for pair in zip(self._seen, self._counts(), strict=True)
        ]  # a deleted TAP has no counter

    def _counts(self) -> list[int]:
        sockets = self._sockets()  # first, so that a drop in between does not get another cause
        full = full_sockets(self._version)
        return [
            self._earlier + (lost_at_tap(self._device) or 0),
            lost_below(self._version) or 0,
            sockets,
            sockets if full is None else full,
            bad_checksums(self._version) or 0,
        ]


def lost_at_tap(name: str) -> int | None:
    """Return frames lost since the device exists because its queues were full; None: unknown."""
    for line in _lines(_DEVICES):
        device, _, numbers = line.partition(":")
        if device.strip() == name:
            return int(numbers.split()[_TX_DROPPED])
    return None


def lost_below(version: int | None) -> int | None:
    """Return UDP sends of this network namespace that a queueing discipline dropped since boot; None: unknown.

    A socket without IP_RECVERR gets no error for them (udp_send_skb, net/ipv4/udp.c); with it, each ICMP error would
    make some later send to another peer fail. The number is a lower bound: a train that is sent in part does not count
    (tbf_segment, net/sched/sch_tbf.c), nor does a datagram that is dropped after it was queued (fq_codel).
    """
    return _udp(version).get("SndbufErrors")


def full_sockets(version: int | None) -> int | None:
    """Return datagrams that full sockets of this network namespace dropped since boot; None: unknown."""
    counts = _udp(version)
    return None if "RcvbufErrors" not in counts else counts["RcvbufErrors"] + counts.get("MemErrors", 0)  # Linux 5.11


def bad_checksums(version: int | None) -> int | None:
    """Return datagrams of this network namespace with a bad UDP checksum, or over IPv6 with none; None: unknown."""
    return _udp(version).get("InCsumErrors")


def bad_tcp_checksums() -> int | None:
    """Return TCP segments of this network namespace with a bad checksum, of both IP versions; None: unknown."""
    tcp = [line.split()[1:] for line in _lines(_SNMP) if line.startswith("Tcp:")]
    return int(dict(zip(*tcp, strict=True)).get("InCsumErrors", 0)) if tcp else None


def _udp(version: int | None) -> dict[str, int]:
    """The UDP counters of one IP version, by their names in net/snmp; empty without one."""
    if version is None:
        return {}
    if version == 4:
        udp = [line.split()[1:] for line in _lines(_SNMP) if line.startswith("Udp:")]
        return {name: int(count) for name, count in zip(*udp, strict=True)} if udp else {}
    pairs = [line.split() for line in _lines(_SNMP6)]
    return {name.removeprefix("Udp6"): int(count) for name, count in pairs if name.startswith("Udp6")}


def _lines(path: Path) -> list[str]:
    """The lines of a file, in which the name of a link may not be UTF-8."""
    try:
        return [os.fsdecode(line) for line in path.read_bytes().splitlines()]
    except OSError:
        return []
