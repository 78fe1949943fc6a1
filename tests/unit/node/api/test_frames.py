"""The stream of a capture: records of all queues, and marks that let a client order them; drops as JSON."""

from __future__ import annotations

import json
from contextlib import aclosing, nullcontext
from types import SimpleNamespace
from typing import Any

from tests.frames import ping
from tests.unit.ctl.test_capture import device_json, record_of
from vxland.datapath.verdict import Drop
from vxland.forwarding.io.ring import Mode, Ring
from vxland.node.api.frames import FrameAnswers

FUTURE_NS = 2**62


def put(ring: Ring, frame: bytes) -> None:
    """Write a record of a frame."""
    ring.start(len(frame), 0, 0, 0, 0, 0, 0, 0)
    ring.add(bytearray(frame), 0, len(frame))
    ring.finish()


class RingCapture:
    """A capture of some rings, like that of forwarding/telemetry.py. `marks` counts marks since the last read."""

    def __init__(self, rings: list[Ring]) -> None:
        self.rings = rings
        self.marks = 0
        self.numbers = [0 for _ in rings]
        self._cursors = [0 for _ in rings]

    def mark(self) -> int:
        """Return a future time, or that of the oldest record in progress."""
        self.marks += 1
        return min(ring.mark(FUTURE_NS) for ring in self.rings)

    def read(self) -> list[bytes]:
        """Return new records; a mark was taken before."""
        assert self.marks
        self.marks = 0
        found = []
        for queue, ring in enumerate(self.rings):
            raw, self._cursors[queue] = ring.read(self._cursors[queue])
            found.append(raw)
        return found

    def close(self) -> None:
        """Do nothing: the rings stay."""


def answers_of(capture: RingCapture) -> FrameAnswers:
    """Return the answers of a node with one device and this capture."""
    first = device_json([0])
    plane = SimpleNamespace(
        settings=SimpleNamespace(device=first["device"], overlay=SimpleNamespace(port=first["port"])),
        underlay=SimpleNamespace(interface=first["interface"], address=first["address"]),
        workers=SimpleNamespace(
            source_ports=first["source_ports"], telemetry=SimpleNamespace(capture=lambda _mode, _snaplen: capture)
        ),
        fast_path=SimpleNamespace(diverted=nullcontext),
    )
    return FrameAnswers(lambda: SimpleNamespace(planes=[plane]))  # type: ignore[arg-type,return-value]  # all it needs


async def test_marks_follow_their_records() -> None:
    """Without marks a client cannot know whether another queue still has an earlier record."""
    rings = [Ring(4096, 64), Ring(4096, 64)]
    for ring in rings:
        ring.mode = Mode.INNER
    items: list[Any] = []
    async with aclosing(answers_of(RingCapture(rings)).capture()) as stream:
        assert "devices" in await anext(stream)  # type: ignore[operator]  # a dict
        put(rings[1], b"reply")
        rings[0].hold()  # its worker sends what is to be the request's record
        items += [await anext(stream), await anext(stream)]
        assert items[0]["queue"] == 1
        assert items[1]["mark_us"] <= rings[0].since // 1000
        put(rings[0], b"request")
        rings[0].release()
        while "records" not in items[-1]:
            items.append(await anext(stream))
        assert items[-1]["queue"] == 0
        while items[-1].get("mark_us", 0) < FUTURE_NS // 1000:
            items.append(await anext(stream))


async def test_times_survive_any_json_reader() -> None:
    """Readers with doubles for numbers, such as jq, rounded `time_ns`, which is beyond 2**53; `time_us` is below it."""
    time_us = 1_764_512_345_678_901
    record = record_of(ping(), 1, 0, time_us, Drop.UNKNOWN_VTEP)
    telemetry = SimpleNamespace(drops=lambda: [record])
    plane = SimpleNamespace(settings=SimpleNamespace(device="flannel.1"), workers=SimpleNamespace(telemetry=telemetry))
    answers = FrameAnswers(lambda: SimpleNamespace(planes=[plane]))  # type: ignore[arg-type,return-value]  # all it needs
    (drop,) = json.loads(json.dumps(await answers.drops()), parse_int=float)
    assert drop["time_us"] == time_us < 2**53
