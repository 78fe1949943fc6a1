"""Copies of frames, parsed from the records of wire/record.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from vxland.datapath.verdict import Drop
from vxland.inspect.decode import Packet, decode
from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.wire.record import ANSWERED_VERDICT, DIRECTIONS, FILLER_LEN, HDR_LEN, LAYOUT, VXLAN_FIRST
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN

_DROPS = {drop.value: drop.label for drop in Drop}


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One copy of a frame of `length` bytes."""

    number: int
    time_ns: int
    direction: str
    verdict: str
    """forwarded, answered, or the drop's reason."""
    outer: Address | None
    """The underlay address of the other VTEP, if known."""
    port: int
    """The source port of a received datagram; the number of the sending socket for a sent one."""
    gso_size: int
    is_datagram: bool
    """True for a copy of a datagram on the underlay, false for a frame on the TAP."""
    vxlan: bytes
    """The VXLAN header of a datagram."""
    frame: bytes
    """The copied bytes of the inner frame."""
    length: int
    """Bytes of the inner frame."""

    @property
    def dropped(self) -> bool:
        """True for a dropped frame or datagram."""
        return self.verdict not in {"forwarded", "answered"}

    @property
    def packet(self) -> Packet:
        """The decoded inner frame."""
        return decode(self.frame)


class RecordError(VxlandError):
    """Invalid records."""


def whole_len(raw: bytes) -> int:
    """Return the bytes of the complete records at the start of `raw`. RecordError: a length is impossible."""
    at = 0
    while at + FILLER_LEN <= len(raw):
        record_len = int.from_bytes(raw[at : at + 4], "big")
        if record_len < (HDR_LEN if raw[at + 4] < len(DIRECTIONS) else FILLER_LEN):
            raise RecordError(f"a record of {record_len} bytes: is the daemon of another version?")
        if at + record_len > len(raw):
            break
        at += record_len
    return at


def parse(raw: bytes) -> Iterator[FrameRecord]:
    """Yield the complete records of `raw`, in order; an incomplete one at the end is left out. RecordError."""
    at, end = 0, whole_len(raw)
    while at < end:
        record_len = int.from_bytes(raw[at : at + 4], "big")
        if raw[at + 4] < len(DIRECTIONS):
            yield _record(raw[at : at + record_len])
        at += record_len


def _record(raw: bytes) -> FrameRecord:
    _, direction, verdict, flags, number, time_ns, hi, lo, port, gso_size, kept, length = LAYOUT.unpack_from(raw)
    copy = raw[HDR_LEN : HDR_LEN + kept]
    vxlan_len = VXLAN_LEN if flags & VXLAN_FIRST else 0
    return FrameRecord(
        number=number,
        time_ns=time_ns,
        direction=DIRECTIONS[direction],
        verdict="answered" if verdict == ANSWERED_VERDICT else _DROPS.get(verdict, "forwarded"),
        outer=_address(hi, lo),
        port=port,
        gso_size=gso_size,
        is_datagram=bool(vxlan_len),
        vxlan=copy[:vxlan_len],
        frame=copy[vxlan_len:],
        length=max(length - vxlan_len, 0),
    )


def _address(hi: int, lo: int) -> Address | None:
    if hi == lo == 0:
        return None
    return IPv6Address(hi << 64 | lo) if hi else IPv4Address(lo & 0xFFFF_FFFF)
