"""Commands drops and capture: copies of frames from the data path."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing

from vxland.forwarding.io.ring import Mode
from vxland.forwarding.telemetry import CaptureSession
from vxland.inspect.reasons import REASONS
from vxland.inspect.records import FrameRecord, parse
from vxland.model.errors import VxlandError
from vxland.node.plane import Plane
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import RequestError

PERIOD_S = 0.02  # how often a capture is read: 4 MiB fill in that time at 1.6 Gbit/s
LINE_LEN = 96 * 1024  # bytes of records in one line
MAX_CAPTURES = 8
MAX_US = 2**53  # later than all records, and a number that every JSON reader can hold
WHOLE = 1 << 17  # more bytes than any frame has


class FrameAnswers:
    """Answers of the node that `read_state()` returns."""

    def __init__(self, read_state: Callable[[], NodeSnapshot]) -> None:
        self._read_state = read_state
        self._captures = 0

    async def drops(self) -> object:
        """Return the last dropped frames, the oldest first; in a flood some are missing."""
        found = [
            (record.time_ns, _drop(record, plane.settings.device))
            for plane in self._read_state().planes
            for records in plane.workers.telemetry.drops()
            for record in parse(records)
        ]
        return [drop for _, drop in sorted(found, key=lambda each: each[0])]

    async def capture(
        self, inner: bool = True, outer: bool = False, dropped: bool = False, snaplen: int = 0
    ) -> AsyncGenerator[object]:
        """Yield the devices, then pieces of each queue's records (wire/record.py) in base64, from now on.

        A mark after them is a time in microseconds: no later record is older. With it the client puts the records of
        all queues in order; the event loop here should handle no single record.
        """
        if snaplen < 0:
            raise RequestError(f"snaplen: {snaplen}: use 0 for whole frames, or the number of bytes to keep of each")
        mode = (Mode.INNER if inner else Mode(0)) | (Mode.OUTER if outer else Mode(0))
        mode = Mode.DROPPED if dropped or not mode else mode
        planes = self._read_state().planes
        if not planes:
            raise VxlandError(f"there is no device yet: {self._read_state().sample.not_ready}")
        if self._captures >= MAX_CAPTURES:
            raise VxlandError(f"{MAX_CAPTURES} captures are running: end one, or try again")
        captures: list[CaptureSession] = []
        self._captures += 1
        diverted = ExitStack()
        try:
            if mode & (Mode.INNER | Mode.OUTER):
                for plane in planes:
                    diverted.enter_context(plane.fast_path.diverted())
            for telemetry in [plane.workers.telemetry for plane in planes]:
                captures.append(telemetry.capture(mode, snaplen or WHOLE))  # noqa: PERF401  (the first ones must be closed)
            yield {"devices": [_device(*pair) for pair in zip(planes, captures, strict=True)]}
            async with aclosing(_pieces(captures)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._captures -= 1
            diverted.close()
            for capture in captures:
                capture.close()


async def _pieces(captures: Sequence[CaptureSession]) -> AsyncGenerator[object]:
    """Yield pieces of records, and the marks, from now on, without end."""
    mark_is_due, read_ns = False, 0
    while True:
        before_ns, read_ns = read_ns, time.time_ns()
        mark_ns = min(capture.mark() for capture in captures)  # before any of them is read
        has_records = False
        for number, capture in enumerate(captures):
            for queue, chunk in enumerate(capture.read()):
                for at in range(0, len(chunk), LINE_LEN):
                    has_records = True
                    records = b64encode(chunk[at : at + LINE_LEN]).decode()
                    yield {"device": number, "queue": queue, "records": records}
        if mark_is_due or has_records:
            is_back = read_ns < before_ns  # the clock was set back: records cannot be ordered by it any more
            yield {"mark_us": MAX_US if is_back else mark_ns // 1000}
            mark_is_due = has_records or mark_ns < read_ns  # for records that come after this mark
        await asyncio.sleep(PERIOD_S)


def _device(plane: Plane, capture: CaptureSession) -> object:
    return {
        "device": plane.settings.device,
        "interface": plane.underlay.interface or "underlay",
        "address": str(plane.underlay.address),
        "port": plane.settings.overlay.port,
        "source_ports": plane.workers.source_ports,
        "numbers": capture.numbers,
    }


def _drop(record: FrameRecord, device: str) -> object:
    packet, reason = record.packet, REASONS[record.verdict]
    ends = {name: getattr(packet, name) for name in ("src_mac", "dst_mac", "src", "dst", "proto", "sport", "dport")}
    return {
        "time_ns": record.time_ns,
        "time_us": record.time_ns // 1000,
        "device": device,
        "direction": record.direction,
        "reason": record.verdict,
        "happened": reason.happened,
        "remedy": reason.remedy,
        "outer": None if record.outer is None else str(record.outer),
        "outer_port": record.port if record.direction == "decap" and record.outer is not None else None,
        "length": record.length,
        "packet": str(packet),
    } | {
        name: str(value) if value is not None and not isinstance(value, int) else value for name, value in ends.items()
    }
