"""Flows from B's pod to A's, cut into segments; and the expected writes to node A's TAP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.frames import PLAIN
from tests.stream import TCP4, TCP6, TIMESTAMPS, UDP4, UDP6, Stream, reverse

MSS = 100
HOME = {
    "TCP4": reverse(replace(TCP4, options=TIMESTAMPS)),
    "TCP6": reverse(TCP6),
    "UDP4": reverse(UDP4),
    "UDP6": reverse(UDP6),
}
each_stream = pytest.mark.parametrize("stream", HOME.values(), ids=HOME)
each_tcp = pytest.mark.parametrize("stream", [HOME["TCP4"], HOME["TCP6"]], ids=["TCP4", "TCP6"])
each_udp = pytest.mark.parametrize("stream", [HOME["UDP4"], HOME["UDP6"]], ids=["UDP4", "UDP6"])
on_v4 = pytest.mark.parametrize("stream", [HOME["TCP4"], HOME["UDP4"]], ids=["TCP4", "UDP4"])


def superframe(stream: Stream, payload: bytes, mss: int = MSS, **fields: int) -> bytes:
    """Return the TAP's write for a run."""
    settings: dict[str, Any] = {**fields}
    return stream.virtio(mss) + replace(stream, **settings).superframe(payload)


def alone(frames: list[bytes]) -> list[bytes]:
    """Return the TAP's writes for frames that do not join."""
    return [PLAIN + frame for frame in frames]


def changed(frame: bytes, at: int, mask: int = 1) -> bytes:
    """Return the frame with bits of one byte flipped, and unchanged checksums."""
    return frame[:at] + bytes([frame[at] ^ mask]) + frame[at + 1 :]
