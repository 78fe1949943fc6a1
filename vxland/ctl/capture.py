"""vxlandctl capture: what the daemon copies, filtered here, as text, as JSON or as a pcapng file."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO

import click

from vxland import __version__
from vxland.ctl.client import CtlError, DaemonClient
from vxland.inspect import filter as filters
from vxland.inspect import pcapng
from vxland.inspect.records import FrameRecord, RecordError, parse, whole_len
from vxland.model.lease import Address
from vxland.model.text import link_name
from vxland.wire.checksum import complement, sum_octets

_UDP = 17
_TTL = 64


class CaptureDevice:
    """An overlay device, as the daemon tells of it, and how far its queues' records have been read."""

    def __init__(self, told: dict[str, Any], place: int) -> None:
        self.name = link_name(told["device"])
        self.interface = link_name(told["interface"])
        self.address: Address = ip_address(told["address"])
        self.port: int = told["port"]
        self.place = place
        self._source_ports: list[int] = told["source_ports"]
        self._numbers: list[int] = told["numbers"]
        self._rests = [b"" for _ in self._numbers]

    def take(self, queue: int, octets: bytes) -> Iterator[tuple[FrameRecord, int]]:
        """The records that are whole by now, each with how many before it were lost. CtlError."""
        octets = self._rests[queue] + octets
        try:
            whole = whole_len(octets)
        except RecordError as exc:
            raise CtlError(str(exc)) from exc
        self._rests[queue] = octets[whole:]
        for record in parse(octets[:whole]):
            lost = record.number - self._numbers[queue]
            self._numbers[queue] = record.number + 1
            yield record, lost

    def datagram(self, record: FrameRecord) -> bytes:
        """The record's outer frame. Its headers are built again: the daemon gets and gives only what follows them."""
        payload = record.vxlan + record.frame
        there = record.outer or ip_address(0 if self.address.version == 4 else bytes(16))
        encap = record.direction == "encap"
        src, dst = (self.address, there) if encap else (there, self.address)
        sport = self._source_ports[record.port] if encap else record.port
        length = 8 + len(record.vxlan) + record.length
        udp = b"".join(number.to_bytes(2, "big") for number in (sport, self.port, length, 0)) + payload
        if len(udp) == length:  # else nobody can tell the sum
            pseudo = src.packed + dst.packed
            total = complement(sum_octets(bytearray(pseudo + udp), 0, len(pseudo + udp), _UDP + length)) or 0xFFFF
            udp = udp[:6] + total.to_bytes(2, "big") + udp[8:]
        if self.address.version == 6:
            head = (6 << 28).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes([_UDP, _TTL])
            return bytes(12) + b"\x86\xdd" + head + src.packed + dst.packed + udp
        head = bytes([0x45, 0]) + min(20 + length, 0xFFFF).to_bytes(2, "big") + bytes([0, 0, 0, 0, _TTL, _UDP, 0, 0])
        head += src.packed + dst.packed
        head = head[:10] + complement(sum_octets(bytearray(head), 0, 20, 0)).to_bytes(2, "big") + head[12:]
        return bytes(12) + b"\x08\x00" + head + udp


class PcapNg:
    """Writes a file: two interfaces for each device, the overlay device and the underlay's."""

    def __init__(self, out: BinaryIO, snaplen: int) -> None:
        self._out = out
        self._snaplen = snaplen
        self._counts: list[list[int]] = []
        self._last_ns = 0

    def begin(self, devices: list[CaptureDevice]) -> None:
        """Write what comes before packets."""
        self._out.write(pcapng.section(f"vxlandctl {__version__}"))
        for device in devices:
            self._out.write(pcapng.interface(device.name, "inner frames", self._snaplen))
            text = f"VXLAN datagrams of {device.name}; headers before VXLAN are built again"
            self._out.write(pcapng.interface(device.interface, text, self._snaplen))
            self._counts += [[0, 0], [0, 0]]
        self._out.flush()

    def write(self, device: CaptureDevice, record: FrameRecord, lost: int, outer: bool) -> None:
        """Write a packet."""
        number = 2 * device.place + outer
        octets = device.datagram(record) if outer else record.frame
        beyond = record.length - len(record.frame)
        way = pcapng.OUTBOUND if record.direction == "encap" else pcapng.INBOUND
        self._counts[number][0] += 1
        self._counts[number][1] += lost
        self._last_ns = record.time_ns
        comment = told(record)
        self._out.write(pcapng.packet(number, record.time_ns, octets, len(octets) + beyond, way, comment, lost))

    def end(self) -> None:
        """Write what comes after packets."""
        for number, (received, lost) in enumerate(self._counts):
            self._out.write(pcapng.statistics(number, self._last_ns, received, lost))
        self._out.flush()


def told(record: FrameRecord) -> str:
    """Direction, peer and verdict, for people."""
    there = "" if record.outer is None else f" {'to' if record.direction == 'encap' else 'from'} {record.outer}"
    verdict = f"dropped: {record.verdict}" if record.dropped else record.verdict
    cut = f", to be cut into segments of {record.gso_size} octets of payload" if record.gso_size else ""
    return f"{record.direction}{there}, {verdict}{cut}"


def line(device: CaptureDevice, record: FrameRecord) -> str:
    """One line of text."""
    at = datetime.fromtimestamp(record.time_ns // 10**9).astimezone().strftime("%H:%M:%S")
    return f"{at}.{record.time_ns % 10**9:09} {device.name} {record.packet} length {record.length}: {told(record)}"


def fields(device: CaptureDevice, record: FrameRecord) -> dict[str, object]:
    """The same for programs."""
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


def of_flow(src: str, dst: str, proto: str, sport: int, dport: int) -> str:
    """A filter for both directions of a flow; an empty `proto` or a port of 0 is any."""
    ways = []
    for near, near_port, far, far_port in ((src, sport, dst, dport), (dst, dport, src, sport)):
        ports = f" and src port {near_port}" * bool(near_port) + f" and dst port {far_port}" * bool(far_port)
        ways.append(f"src host {near} and dst host {far}{ports}")
    either = f"({' or '.join(ways)})"
    return f"{either} and {proto}" if proto else either


class Session:
    """One capture: what is asked for, and what came of it."""

    def __init__(
        self,
        expression: str,
        *,
        inner: bool = True,
        outer: bool = False,
        dropped: bool = False,
        snaplen: int = 0,
        count: int | None = None,
    ) -> None:
        try:
            self._wanted = filters.parse(expression)
        except filters.FilterError as exc:
            raise CtlError(str(exc), 2) from exc
        self._inner = inner
        self._outer = outer
        self._dropped = dropped
        self._snaplen = snaplen
        self._count = count
        self.captured = 0
        self.filtered = 0
        self.lost = 0
        self._waiting: list[tuple[CaptureDevice, FrameRecord, int]] = []

    def run(self, daemon: DaemonClient, path: str | None, *, as_json: bool) -> None:
        """Print what comes, or write it to `path`, until the count is reached or Ctrl-C; then a summary on stderr."""
        asked = {"inner": self._inner, "outer": self._outer, "dropped": self._dropped, "snaplen": self._snaplen}
        try:
            with closing(daemon.stream("capture", **asked)) as items:
                devices = [CaptureDevice(told, place) for place, told in enumerate(next(items)["devices"])]
                try:
                    self._write(items, devices, path) if path else self._print(items, devices, as_json)
                finally:
                    text = f"{self.captured} captured, {self.filtered} filtered out, {self.lost} lost"
                    click.echo(text, err=True)
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as exc:
            raise CtlError(f"the capture cannot be written: {exc.strerror}: choose another place with -w") from exc

    def _write(self, items: Iterator[Any], devices: list[CaptureDevice], path: str) -> None:
        with _opened(path) as out:
            file = PcapNg(out, self._snaplen)
            file.begin(devices)
            try:
                for some in self._some(items, devices):
                    for device, record, lost in some:
                        for number, outer in enumerate(self._views(record)):
                            file.write(device, record, 0 if number else lost, outer)
                    out.flush()
            finally:
                with suppress(OSError):
                    file.end()

    def _print(self, items: Iterator[Any], devices: list[CaptureDevice], as_json: bool) -> None:
        for some in self._some(items, devices):
            for device, record, lost in some:
                if lost:
                    click.echo(json.dumps({"lost": lost}) if as_json else f"({lost} lost)")
                click.echo(json.dumps(fields(device, record)) if as_json else line(device, record))

    def _some(
        self, items: Iterator[Any], devices: list[CaptureDevice]
    ) -> Iterator[list[tuple[CaptureDevice, FrameRecord, int]]]:
        """What is wanted, by time, with how many were lost before; the last list completes the count."""
        missing = 0
        for ordered in self._ordered(items, devices):
            found: list[tuple[CaptureDevice, FrameRecord, int]] = []
            for device, record, lost in ordered:
                self.lost += lost
                missing += lost
                if not self._views(record):
                    continue
                if not self._wanted(record, record.packet):
                    self.filtered += 1
                    continue
                self.captured += 1
                found.append((device, record, missing))
                missing = 0
                if self.captured == self._count:
                    yield found
                    return
            yield found

    def _ordered(
        self, items: Iterator[Any], devices: list[CaptureDevice]
    ) -> Iterator[list[tuple[CaptureDevice, FrameRecord, int]]]:
        """The records of all queues by time, as far as no earlier one can come; all of them once the stream ends.

        Each queue's worker writes by itself: a request and its reply are mostly in two queues, read one after another.
        """
        try:
            for item in items:
                if (mark_us := item.get("mark_us")) is not None:
                    yield self._due(mark_us)
                    continue
                device = devices[item["device"]]
                for record, lost in device.take(item["queue"], b64decode(item["records"])):
                    self._waiting.append((device, record, lost))
        except (CtlError, KeyboardInterrupt):
            yield self._due(float("inf"))
            raise
        yield self._due(float("inf"))

    def _due(self, mark_us: float) -> list[tuple[CaptureDevice, FrameRecord, int]]:
        """Take out what waits and is older than the mark, in order."""
        due = [each for each in self._waiting if each[1].time_ns // 1000 < mark_us]
        if len(due) < len(self._waiting):
            self._waiting = [each for each in self._waiting if each[1].time_ns // 1000 >= mark_us]
        else:
            self._waiting = []
        return sorted(due, key=lambda each: each[1].time_ns)

    def _views(self, record: FrameRecord) -> list[bool]:
        """How the record is shown: as inner frame (False), as datagram (True), both, or not at all.

        A frame on its way out is copied twice where both are wanted, and one on its way in once. A drop is shown in any
        case, and as what it is where the other cannot be told. What only another capture asked for is left out.
        """
        if self._dropped and not record.dropped:
            return []
        inner, outer = [False] * self._inner, [True] * self._outer
        views = inner if not record.is_datagram else outer if record.direction == "encap" else inner + outer
        if record.dropped and not views:
            views = [not record.frame]
        return views if record.frame else [record.is_datagram] * bool(views)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file, or standard output for -; what cannot be flushed at the end has been told of before."""
    if path == "-":
        yield sys.stdout.buffer
        return
    file = Path(path).open("wb")  # noqa: SIM115  (closed below, quietly)
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()
