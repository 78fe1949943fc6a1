"""A captured frame as a line of text, or as a JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from vxland.ctl.capture_device import CaptureDevice
from vxland.inspect.records import FrameRecord
from vxland.model.lease import Address


def ends(record: FrameRecord) -> tuple[Address | None, ...]:
    """Return the addresses of a frame that may have names."""
    packet = record.packet
    return record.outer, packet.src, packet.dst


def describe(record: FrameRecord, names: Mapping[str, str]) -> str:
    """Return direction, peer, verdict and names, for people."""
    there = "" if record.outer is None else f" {'to' if record.direction == 'encap' else 'from'} {record.outer}"
    verdict = f"dropped: {record.verdict}" if record.dropped else record.verdict
    cut = f", to be cut into segments of {record.gso_size} bytes of payload" if record.gso_size else ""
    known = "".join(f", {address} is {name}" for address, name in _known(record, names).items())
    return f"{record.direction}{there}, {verdict}{cut}{known}"


def line(device: CaptureDevice, record: FrameRecord, names: Mapping[str, str]) -> str:
    """Return one line of text."""
    at = datetime.fromtimestamp(record.time_ns // 10**9).astimezone().strftime("%H:%M:%S")
    frame = f"{device.name} {record.packet} length {record.length}"
    return f"{at}.{record.time_ns % 10**9:09} {frame}: {describe(record, names)}"


def fields(device: CaptureDevice, record: FrameRecord, names: Mapping[str, str]) -> dict[str, object]:
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
        "names": _known(record, names),
    }


def _known(record: FrameRecord, names: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the frame's addresses."""
    return {str(each): names[str(each)] for each in ends(record) if str(each) in names} if names else {}
