"""A captured frame as a line of text, or as a JSON object."""

from __future__ import annotations

from datetime import datetime

from vxland.ctl.capture_device import CaptureDevice
from vxland.inspect.records import FrameRecord


def describe(record: FrameRecord) -> str:
    """Return direction, peer and verdict, for people."""
    there = "" if record.outer is None else f" {'to' if record.direction == 'encap' else 'from'} {record.outer}"
    verdict = f"dropped: {record.verdict}" if record.dropped else record.verdict
    cut = f", to be cut into segments of {record.gso_size} bytes of payload" if record.gso_size else ""
    return f"{record.direction}{there}, {verdict}{cut}"


def line(device: CaptureDevice, record: FrameRecord) -> str:
    """Return one line of text."""
    at = datetime.fromtimestamp(record.time_ns // 10**9).astimezone().strftime("%H:%M:%S")
    return f"{at}.{record.time_ns % 10**9:09} {device.name} {record.packet} length {record.length}: {describe(record)}"


def fields(device: CaptureDevice, record: FrameRecord) -> dict[str, object]:
    """Return the same for programs; times are in ns, and in us for readers whose numbers are doubles."""
    packet = record.packet
    return {
        "time_ns": record.time_ns,
        "time_us": record.time_ns // 1000,
        "device": device.name,
        "direction": record.direction,
        "verdict": record.verdict,
        "outer": None if record.outer is None else str(record.outer),
        "vxlan": bool(record.vxlan),
        "length": record.length,
        "gso_size": record.gso_size,
        "src": None if packet.src is None else str(packet.src),
        "dst": None if packet.dst is None else str(packet.dst),
        "proto": packet.proto,
        "sport": packet.sport,
        "dport": packet.dport,
    }
