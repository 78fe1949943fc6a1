"""What the pumps of one device have noted (forwarding/recorder.py): for metrics, `vxlandctl drops` and captures.

Any thread may ask. Counters of peers are kept by VTEP here, since a table's indices end with it; the pumps hand over
those of earlier tables.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from vxland.datapath.traffic import Traffic
from vxland.forwarding.counts import PeerTraffic
from vxland.forwarding.io.ring import Mode, Ring
from vxland.forwarding.pump import Pump
from vxland.forwarding.recorder import OFF
from vxland.model.lease import Vtep

RING_LEN = 4 << 20  # octets of captured frames for each queue
MAX_SNAPLEN = 65_535 + 64  # the longest frame, and what may lie before it
RETIRED = 8  # tables whose counters a pump may hold
NOTHING = (0, 0, 0, 0)
DEPARTED = 4096  # VTEPs in no table any more that are remembered


class DeviceTelemetry:
    """What the pumps of one device let others see."""

    def __init__(self, pumps: Sequence[Pump]) -> None:
        self._pumps = pumps
        self._past: dict[Vtep, list[int]] = {}
        self._lock = threading.Lock()
        self._captures: set[CaptureSession] = set()

    def peers(self) -> dict[Vtep, PeerTraffic]:
        """The traffic of each VTEP of the table in force, since start."""
        vteps = self._pumps[0].table.vteps
        with self._lock:
            now = [self._hand_over(pump) for pump in self._pumps]
            found = {vtep: list(self._past.get(vtep, NOTHING)) for vtep in vteps}
            for traffic in now:
                _add(found, traffic)
            self._forget(vteps)
        return {vtep: PeerTraffic(*found[vtep]) for vtep in vteps}

    def tidy(self) -> None:
        """Take the counters of earlier tables off pumps that hold many; called when the table changes."""
        if any(len(pump.recorder.retired) > RETIRED for pump in self._pumps):
            self.peers()

    def drops(self) -> list[bytes]:
        """The records (wire/record.py) of the frames dropped last, of each pump by itself."""
        return [pump.recorder.drops.read(0)[0] for pump in self._pumps]

    def capture(self, mode: Mode, snaplen: int) -> CaptureSession:
        """Capture from now on, until it is closed."""
        with self._lock:
            if not self._captures:
                for pump in self._pumps:
                    pump.capture = Ring(RING_LEN, 0)
            capture = CaptureSession(self, mode, min(snaplen, MAX_SNAPLEN), [pump.capture for pump in self._pumps])
            self._captures.add(capture)
            self._adjust()
        return capture

    def end(self, capture: CaptureSession) -> None:
        """Capture no more for this one."""
        with self._lock:
            self._captures.discard(capture)
            self._adjust()

    def _adjust(self) -> None:
        """Make the rings what all captures together want; each finds its own among the rest by what records say."""
        mode, snaplen = 0, 0
        for capture in self._captures:
            mode, snaplen = mode | capture.mode, max(snaplen, capture.snaplen)
        for pump in self._pumps:
            if not self._captures:
                pump.capture = OFF
            else:
                pump.capture.mode, pump.capture.snaplen = mode, snaplen

    def _hand_over(self, pump: Pump) -> Traffic:
        """Add up what a pump has counted for earlier tables; the counters it has in use."""
        current, retired = pump.recorder.traffic, pump.recorder.retired
        while retired and retired[0] is not current:
            _add(self._past, retired.pop(0))
        return current

    def _forget(self, vteps: Sequence[Vtep]) -> None:
        if len(self._past) > len(vteps) + DEPARTED:
            self._past = {vtep: self._past[vtep] for vtep in vteps if vtep in self._past}


class CaptureSession:
    """One who looks at the frames of a device. `mode` and `snaplen` are what was asked for; there may be more."""

    def __init__(self, telemetry: DeviceTelemetry, mode: Mode, snaplen: int, rings: Sequence[Ring]) -> None:
        self.mode = mode
        self.snaplen = snaplen
        self.numbers = [ring.number for ring in rings]
        """Of each queue, the number of the record that comes first."""
        self._telemetry = telemetry
        self._rings = rings
        self._cursors = [ring.head for ring in rings]

    def read(self) -> list[bytes]:
        """The records (wire/record.py) since the last call, by queue; the oldest are missing where there were many."""
        found = []
        for queue, ring in enumerate(self._rings):
            octets, self._cursors[queue] = ring.read(self._cursors[queue])
            found.append(octets)
        return found

    def mark(self) -> int:
        """Return a time, in nanoseconds since 1970, before which no record comes after the next read()."""
        now = time.time_ns()
        return min(ring.mark(now) for ring in self._rings)

    def close(self) -> None:
        """Capture no more."""
        self._telemetry.end(self)


def _add(found: dict[Vtep, list[int]], traffic: Traffic) -> None:
    """Add a table's counters to those of their VTEPs, where there are any."""
    for vtep, counts in zip(traffic.table.vteps, traffic.numbers(), strict=True):
        if any(counts):
            found[vtep] = [a + b for a, b in zip(found.get(vtep, NOTHING), counts, strict=True)]
