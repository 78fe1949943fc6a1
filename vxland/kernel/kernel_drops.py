"""The kernel's drop counters for what never reaches vxland: full queues, bad checksums, nftables. Read from proc(5).

A UDP socket's own counter (sk_drops) mixes two causes: a full queue and a bad checksum (net/ipv4/udp.c). Short
datagrams with a bad checksum, and IPv6 ones without any, do not count there at all. The network namespace's counters
have the causes apart, for the sockets of all programs together; both are needed to separate them.
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
    """What one overlay device has lost beside vxland since this was made, by the words of inspect/reasons.py.

    `sockets()` is the receiving sockets' own counter. `filtered()` counts what nftables has dropped before them, None
    where it has no part in it; Where the kernel does not tell,
    nothing is counted.
    """

    def __init__(
        self,
        device: str,
        underlay_version: int,
        sockets: Callable[[], int],
        filtered: Callable[[], int | None],
    ) -> None:
        self._device, self._version, self._sockets = device, underlay_version, sockets
        self._filtered = filtered
        self._earlier = 0  # lost by devices of this name that were deleted since
        self._before = self._seen = self._counts()

    @property
    def at_tap(self) -> int:
        """Frames that the device's queues had no room for: those of the devices before it included."""
        self._look()
        return self._seen[0]

    def renewed(self) -> None:
        """Count on: the kernel begins at 0 for a new device of the name."""
        self._earlier = self._seen[0]

    def by_direction(self) -> dict[str, dict[str, int]]:
        """Direction -> word of inspect/reasons.py -> count."""
        self._look()
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

    def _look(self) -> None:
        self._seen = [max(pair) for pair in zip(self._seen, self._counts(), strict=True)]  # a deleted TAP tells nothing

    def _counts(self) -> list[int]:
        sockets = self._sockets()  # first: what is lost meanwhile must not seem to have another cause
        full = full_sockets(self._version)
        return [
            self._earlier + (lost_at_tap(self._device) or 0),
            lost_below(self._version) or 0,
            sockets,
            sockets if full is None else full,
            bad_checksums(self._version) or 0,
        ]


def lost_at_tap(name: str) -> int | None:
    """Frames that the device's queues had no room for since it exists: nobody read them fast enough. None: untold."""
    for line in _lines(_DEVICES):
        device, _, numbers = line.partition(":")
        if device.strip() == name:
            return int(numbers.split()[_TX_DROPPED])
    return None


def lost_below(version: int) -> int | None:
    """UDP sends of this network namespace that an interface's queueing discipline dropped, since boot. None: untold.

    A socket without IP_RECVERR hears nothing of them (udp_send_skb, net/ipv4/udp.c); with it, each ICMP error would
    make some later send to another peer fail. Those that were dropped at least: a train of which a part got through
    does not count (tbf_segment, net/sched/sch_tbf.c), nor what is dropped after it was taken (fq_codel).
    """
    return _udp(version).get("SndbufErrors")


def full_sockets(version: int) -> int | None:
    """Datagrams that receiving sockets of this network namespace had no room for, since boot. None: untold."""
    counts = _udp(version)
    return None if "RcvbufErrors" not in counts else counts["RcvbufErrors"] + counts.get("MemErrors", 0)  # Linux 5.11


def bad_checksums(version: int) -> int | None:
    """Datagrams of this network namespace with a bad UDP checksum, or over IPv6 with none, since boot. None: untold."""
    return _udp(version).get("InCsumErrors")


def _udp(version: int) -> dict[str, int]:
    """The UDP counters of one IP version, by their names in net/snmp."""
    if version == 4:
        udp = [line.split()[1:] for line in _lines(_SNMP) if line.startswith("Udp:")]
        return {name: int(count) for name, count in zip(*udp, strict=True)} if udp else {}
    pairs = [line.split() for line in _lines(_SNMP6)]
    return {name.removeprefix("Udp6"): int(count) for name, count in pairs if name.startswith("Udp6")}


def _lines(path: Path) -> list[str]:
    """The lines of a file; somebody's link may have a name that is no text."""
    try:
        return [os.fsdecode(line) for line in path.read_bytes().splitlines()]
    except OSError:
        return []
