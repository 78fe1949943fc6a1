"""`vxlandctl capture`: frames that the daemon copies, filtered here and put in order of time."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import Any

import click

from vxland.ctl.capture_device import CaptureDevice
from vxland.ctl.capture_file import PcapNg, open_file
from vxland.ctl.capture_text import ends, fields, line
from vxland.ctl.client import CtlError, DaemonClient
from vxland.ctl.names import NameLookup
from vxland.inspect import filter as filters
from vxland.inspect.records import FrameRecord


def of_flow(src: str, dst: str, proto: str, sport: int, dport: int) -> str:
    """Return a filter for both directions of a flow; an empty `proto` or a port of 0 is any. CtlError."""
    for name, text in (("SRC", src), ("DST", dst)):
        try:
            ip_address(text)
        except ValueError as exc:
            raise CtlError(f"{name}: {text!r}: use an IPv4 or IPv6 address", 2) from exc
    directions = []
    for near, near_port, far, far_port in ((src, sport, dst, dport), (dst, dport, src, sport)):
        ports = f" and src port {near_port}" * bool(near_port) + f" and dst port {far_port}" * bool(far_port)
        directions.append(f"src host {near} and dst host {far}{ports}")
    either = f"({' or '.join(directions)})"
    return f"{either} and {proto}" if proto else either


def _names(lookup: NameLookup, records: Iterable[tuple[CaptureDevice, FrameRecord, int]]) -> Mapping[str, str]:
    """Return the names of all addresses in these records."""
    return lookup.find([end for _, record, _ in records for end in ends(record)])


class Session:
    """One capture: its options, and the numbers of captured, filtered and lost frames. CtlError."""

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
        """Print frames, or write them to `path`, until the count is reached or Ctrl-C; then a summary on stderr."""
        options = {"inner": self._inner, "outer": self._outer, "dropped": self._dropped, "snaplen": self._snaplen}
        try:
            with closing(daemon.stream("capture", **options)) as items:
                devices = [CaptureDevice(answer, place) for place, answer in enumerate(next(items)["devices"])]
                try:
                    names = NameLookup(daemon)
                    self._write(items, devices, names, path) if path else self._print(items, devices, names, as_json)
                finally:
                    text = f"{self.captured} captured, {self.filtered} filtered out, {self.lost} lost"
                    click.echo(text, err=True)
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as exc:
            if path is None:
                raise
            where = "standard output" if path == "-" else path
            raise CtlError(f"{where} cannot be written: {exc.strerror}: choose another file with -w") from exc

    def _write(self, items: Iterator[Any], devices: list[CaptureDevice], names: NameLookup, path: str) -> None:
        with open_file(path) as out:
            file = PcapNg(out, self._snaplen)
            file.begin(devices)
            try:
                for records in self._wanted_records(items, devices):
                    known = _names(names, records)
                    for device, record, lost in records:
                        for number, outer in enumerate(self._views(record)):
                            file.write(device, record, known, 0 if number else lost, outer)
                    out.flush()
            finally:
                with suppress(OSError):
                    file.end()

    def _print(self, items: Iterator[Any], devices: list[CaptureDevice], names: NameLookup, as_json: bool) -> None:
        for records in self._wanted_records(items, devices):
            known = _names(names, records)
            for device, record, lost in records:
                if lost:
                    click.echo(json.dumps({"lost": lost}) if as_json else f"({lost} lost)")
                click.echo(json.dumps(fields(device, record, known)) if as_json else line(device, record, known))

    def _wanted_records(
        self, items: Iterator[Any], devices: list[CaptureDevice]
    ) -> Iterator[list[tuple[CaptureDevice, FrameRecord, int]]]:
        """Yield wanted records in order of time, each with the number lost before it, until the count is reached."""
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
        """Yield the records of all queues in order of time, as far as no earlier one can come; all at the stream's end.

        Each queue has a worker of its own: a request and its reply are mostly in two queues, read one after another.
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
        """Remove and return the waiting records older than the mark, in order."""
        due = [each for each in self._waiting if each[1].time_ns // 1000 < mark_us]
        if len(due) < len(self._waiting):
            self._waiting = [each for each in self._waiting if each[1].time_ns // 1000 >= mark_us]
        else:
            self._waiting = []
        return sorted(due, key=lambda each: each[1].time_ns)

    def _views(self, record: FrameRecord) -> list[bool]:
        """Return the views of a record: inner frame (False), datagram (True), both, or none.

        An outgoing frame is copied twice if both are wanted, and an incoming one once. A drop always has a view, if
        necessary the only one that its copy allows. Records that only another capture asked for have none.
        """
        if self._dropped and not record.dropped:
            return []
        inner, outer = [False] * self._inner, [True] * self._outer
        views = inner if not record.is_datagram else outer if record.direction == "encap" else inner + outer
        if record.dropped and not views:
            views = [not record.frame]
        return views if record.frame else [record.is_datagram] * bool(views)
