"""What the kernel had no room for on either side of vxland: proc(5) counts it, and nobody is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_DEVICES = Path("/proc/thread-self/net/dev")
_SNMP = Path("/proc/thread-self/net/snmp")
_SNMP6 = Path("/proc/thread-self/net/snmp6")
_TX_DROPPED = 11  # column of net/dev, behind the device's name


class QueueDrops:
    """What one overlay device lost to full queues since this was made; `sockets()` counts the receiving sockets' part.

    Where the kernel does not tell, nothing is counted.
    """

    def __init__(self, device: str, underlay_version: int, sockets: Callable[[], int]) -> None:
        self._device, self._version, self._sockets = device, underlay_version, sockets
        self._before = self._seen = self._counts()

    def by_direction(self) -> dict[str, dict[str, int]]:
        """Direction -> word of ops/reasons.py -> count."""
        self._seen = [max(pair) for pair in zip(self._seen, self._counts(), strict=True)]  # a deleted TAP tells nothing
        tap, below, sockets = (now - before for now, before in zip(self._seen, self._before, strict=True))
        return {
            "encap": {"tap_queue_full": tap, "underlay_queue_full": below, "socket_queue_full": 0},
            "decap": {"tap_queue_full": 0, "underlay_queue_full": 0, "socket_queue_full": sockets},
        }

    def _counts(self) -> list[int]:
        return [lost_at_tap(self._device) or 0, lost_below(self._version) or 0, self._sockets()]


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
    if version == 4:
        udp = [line.split()[1:] for line in _lines(_SNMP) if line.startswith("Udp:")]
        counts = dict(zip(*udp, strict=True)) if udp else {}
        found = counts.get("SndbufErrors")
    else:
        found = dict(line.split() for line in _lines(_SNMP6)).get("Udp6SndbufErrors")
    return None if found is None else int(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
