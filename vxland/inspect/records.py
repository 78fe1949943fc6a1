"""Copies of frames as people and programs see them: what wire/record.py lays out, taken apart."""

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
    """One copy: `octets` of the frame, which was `length` long."""

    number: int
    time_ns: int
    direction: str
    verdict: str
    """forwarded, answered, or the drop's reason."""
    outer: Address | None
    """The other VTEP's underlay address, where there is one."""
    port: int
    """The source port of a datagram that came; of one that goes, which of the node's sending sockets it takes."""
    gso_size: int
    is_datagram: bool
    """Whether it was copied as it crosses the underlay; else as the TAP gives or gets it."""
    vxlan: bytes
    """The VXLAN header of a datagram."""
    frame: bytes
    """The inner frame, as far as it was copied."""
    length: int
    """Octets of the inner frame."""

    @property
    def dropped(self) -> bool:
        """Whether it went no further."""
        return self.verdict not in {"forwarded", "answered"}

    @property
    def packet(self) -> Packet:
        """What the inner frame is."""
        return decode(self.frame)


class RecordError(VxlandError):
    """Octets that are no records."""


def whole_len(octets: bytes) -> int:
    """Octets of the whole records that `octets` begins with; RecordError where one could not end."""
    at = 0
    while at + FILLER_LEN <= len(octets):
        record_len = int.from_bytes(octets[at : at + 4], "big")
        if record_len < (HDR_LEN if octets[at + 4] < len(DIRECTIONS) else FILLER_LEN):
            raise RecordError(f"a record of {record_len} octets: is the daemon of another version?")
        if at + record_len > len(octets):
            break
        at += record_len
    return at


def parse(octets: bytes) -> Iterator[FrameRecord]:
    """The whole records of `octets`, in order; an incomplete one at the end is left out. RecordError."""
    at, end = 0, whole_len(octets)
    while at < end:
        record_len = int.from_bytes(octets[at : at + 4], "big")
        if octets[at + 4] < len(DIRECTIONS):
            yield _record(octets[at : at + record_len])
        at += record_len


def _record(octets: bytes) -> FrameRecord:
    _, direction, verdict, flags, number, time_ns, hi, lo, port, gso_size, kept, length = LAYOUT.unpack_from(octets)
    copy = octets[HDR_LEN : HDR_LEN + kept]
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
