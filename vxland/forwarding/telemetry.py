"""Telemetry of one device, from its pumps' records (forwarding/recorder.py): metrics, `vxlandctl drops`, captures.

Any thread may call it. Counters of peers are kept by VTEP here, because an index is valid for one lineage of tables
only; the pumps hand over the counters of earlier ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from vxland.datapath.traffic import Traffic
from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.io.ring import Mode, Ring
from vxland.forwarding.pump import Pump
from vxland.forwarding.recorder import OFF
from vxland.model.lease import Vtep

RING_LEN = 4 << 20  # bytes of captured frames for each queue
MAX_SNAPLEN = 65_535 + 64  # the longest frame, and the headers before it
RETIRED = 8  # most earlier lineages whose counters a pump holds
NOTHING = (0, 0, 0, 0)
NO_TRAFFIC = PeerTraffic()
DEPARTED = 4096  # most VTEPs without a lease whose counters are kept


class DeviceTelemetry:
    """Read access to the records of all pumps of one device."""

    def __init__(self, pumps: Sequence[Pump]) -> None:
        self._pumps = pumps
        self._past: dict[Vtep, list[int]] = {}
        self._lock = threading.Lock()
        self._captures: set[CaptureSession] = set()
        self.carried: Callable[[], Mapping[Vtep, PeerTraffic]] = dict
        """Returns the traffic that passes no pump, by VTEP: that of the fast path."""

    def peers(self) -> dict[Vtep, PeerTraffic]:
        """Return the traffic since start of each VTEP of the table in force."""
        vteps = tuple(self._pumps[0].table.vteps)
        with self._lock:
            now = [self._hand_over(pump) for pump in self._pumps]
            found = {vtep: list(self._past.get(vtep, NOTHING)) for vtep in vteps}
            for traffic in now:
                _add(found, traffic)
            self._forget(vteps)
        carried = self.carried()
        return {vtep: PeerTraffic(*found[vtep]).plus(carried.get(vtep, NO_TRAFFIC)) for vtep in vteps}

    def tidy(self) -> None:
        """Collect the counters of earlier lineages from pumps that hold many; called when the table changes."""
        if any(len(pump.recorder.retired) > RETIRED for pump in self._pumps):
            self.peers()

    def drops(self) -> list[bytes]:
        """Return the records (wire/record.py) of the last dropped frames, one bytes object for each pump."""
        return [pump.recorder.drops.read(0)[0] for pump in self._pumps]

    def capture(self, mode: Mode, snaplen: int) -> CaptureSession:
        """Start a capture of at most `snaplen` bytes of each frame; it runs until it is closed."""
        with self._lock:
            if not self._captures:
                for pump in self._pumps:
                    pump.capture = Ring(RING_LEN, 0)
            capture = CaptureSession(self, mode, min(snaplen, MAX_SNAPLEN), [pump.capture for pump in self._pumps])
            self._captures.add(capture)
            self._adjust()
        return capture

    def end(self, capture: CaptureSession) -> None:
        """End this capture."""
        with self._lock:
            self._captures.discard(capture)
            self._adjust()

    def _adjust(self) -> None:
        """Set mode and snaplen of the rings to cover all captures; each capture selects its own records."""
        mode, snaplen = 0, 0
        for capture in self._captures:
            mode, snaplen = mode | capture.mode, max(snaplen, capture.snaplen)
        for pump in self._pumps:
            if not self._captures:
                pump.capture = OFF
            else:
                pump.capture.mode, pump.capture.snaplen = mode, snaplen

    def _hand_over(self, pump: Pump) -> Traffic:
        """Add up a pump's counters of earlier lineages; return those of the table in use."""
        current, retired = pump.recorder.traffic, pump.recorder.retired
        while retired and retired[0] is not current:
            _add(self._past, retired.pop(0))
        return current

    def _forget(self, vteps: Sequence[Vtep]) -> None:
        if len(self._past) > len(vteps) + DEPARTED:
            self._past = {vtep: self._past[vtep] for vtep in vteps if vtep in self._past}


class CaptureSession:
    """One capture session. Sessions share the rings: these may hold more than it asked for."""

    def __init__(self, telemetry: DeviceTelemetry, mode: Mode, snaplen: int, rings: Sequence[Ring]) -> None:
        self.mode = mode
        self.snaplen = snaplen
        self.numbers = [ring.number for ring in rings]
        """The number of the first record of each queue."""
        self._telemetry = telemetry
        self._rings = rings
        self._cursors = [ring.head for ring in rings]

    def read(self) -> list[bytes]:
        """Return the records (wire/record.py) since the last call, by queue; of many, the oldest are lost."""
        found = []
        for queue, ring in enumerate(self._rings):
            raw, self._cursors[queue] = ring.read(self._cursors[queue])
            found.append(raw)
        return found

    def mark(self) -> int:
        """Return a time in nanoseconds since 1970; records after the next read() are not older."""
        now = time.time_ns()
        return min(ring.mark(now) for ring in self._rings)

    def close(self) -> None:
        """End the session."""
        self._telemetry.end(self)


def _add(found: dict[Vtep, list[int]], traffic: Traffic) -> None:
    """Add the counters of a lineage to those of its VTEPs."""
    for vtep, counts in zip(traffic.lineage.vteps, traffic.numbers(), strict=False):
        if any(counts):
            found[vtep] = [a + b for a, b in zip(found.get(vtep, NOTHING), counts, strict=True)]
