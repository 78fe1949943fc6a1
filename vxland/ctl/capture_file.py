"""A capture as a pcapng file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vxland import __version__
from vxland.ctl.capture_device import CaptureDevice
from vxland.ctl.capture_text import describe
from vxland.inspect import pcapng
from vxland.inspect.records import FrameRecord


class PcapNg:
    """Writer of a pcapng file with two interfaces for each device, the overlay device and the underlay's."""

    def __init__(self, out: BinaryIO, snaplen: int) -> None:
        self._out = out
        self._snaplen = snaplen
        self._counts: list[list[int]] = []
        self._last_ns = 0

    def begin(self, devices: list[CaptureDevice]) -> None:
        """Write section and interfaces."""
        self._out.write(pcapng.section(f"vxlandctl {__version__}"))
        for device in devices:
            self._out.write(pcapng.interface(device.name, "inner frames", self._snaplen))
            text = f"VXLAN datagrams of {device.name}; headers before VXLAN are rebuilt"
            self._out.write(pcapng.interface(device.interface, text, self._snaplen))
            self._counts += [[0, 0], [0, 0]]
        self._out.flush()

    def write(
        self, device: CaptureDevice, record: FrameRecord, names: Mapping[str, str], lost: int, outer: bool
    ) -> None:
        """Write a packet."""
        number = 2 * device.place + outer
        packet = device.datagram(record) if outer else record.frame
        beyond = record.length - len(record.frame)
        direction = pcapng.OUTBOUND if record.direction == "encap" else pcapng.INBOUND
        self._counts[number][0] += 1
        self._counts[number][1] += lost
        self._last_ns = record.time_ns
        comment = describe(record, names)
        self._out.write(pcapng.packet(number, record.time_ns, packet, len(packet) + beyond, direction, comment, lost))

    def end(self) -> None:
        """Write the statistics of the interfaces."""
        for number, (received, lost) in enumerate(self._counts):
            self._out.write(pcapng.statistics(number, self._last_ns, received, lost))
        self._out.flush()


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Open the file, or standard output for -. An error at its end was reported by an earlier flush."""
    if path == "-":
        yield sys.stdout.buffer
        return
    file = Path(path).open("wb")  # noqa: SIM115  (closed below, quietly)
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()
