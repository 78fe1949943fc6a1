"""Evidence about peers in captured frames: their MACs, and datagrams that this node dropped. Pure.

Records (wire/record.py) hold bytes that anyone can send. So bytes inside one are never taken for another record, and
the number of records that are read is bounded: a flood must not block the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from vxland.datapath.verdict import Drop
from vxland.inspect.records import FrameRecord, RecordError, parse
from vxland.model.lease import Address, Lease, Mac
from vxland.wire.record import ANSWERED_VERDICT, DIRECTIONS, VXLAN_FIRST
from vxland.wire.record import HDR_LEN as RECORD_LEN
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.whohas import ANSWER, ANSWER_LEN, TYPE_OFF, read_answer

MAX_ANSWERS = 1024
"""Answers of one queue that are read."""

MAX_RECORDS = 8192
"""Records of one queue that are searched for refusals: 5 ms."""

_ROOM = RECORD_LEN + VXLAN_LEN + ANSWER_LEN + 8  # and padding
_DIRECTION, _VERDICT, _FLAGS, _TIME, _OUTER = 4, 5, 6, 16, 24  # offsets in a record
_VNI_OFF = 4  # in the VXLAN header: RFC 7348 section 5
_MAC_LEN = 6  # the source MAC stands behind the destination MAC
_DECAP = DIRECTIONS.index("decap")
_NOT_THE_SENDER = frozenset({Drop.ECN_CE, Drop.TAP_WRITE_FAILED})
"""Drop reasons that say nothing about the configuration of the sender."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A datagram of a peer that this node dropped: the drop reason, the outer source, and its VNI."""

    reason: str
    source: Address
    vni: int


def answers(queues: Iterable[bytes]) -> dict[tuple[Address, Address], Mac]:
    """Return the MAC that a VTEP answered for an overlay address, by VTEP address and overlay address."""
    found = {}
    for records in queues:
        for match in islice(ANSWER.finditer(records), MAX_ANSWERS):  # faster than reading each of thousands of records
            record = _record_at(records, match.start() - TYPE_OFF - VXLAN_LEN - RECORD_LEN)
            if record is not None and record.direction == "decap" and record.outer is not None and not record.dropped:
                address, mac = read_answer(match)
                found[record.outer, address] = mac
    return found


def refusals(queues: Iterable[bytes], leases: Iterable[Lease], since_ns: int) -> dict[Lease, Refusal]:
    """Return the last dropped datagram of each peer since `since_ns`.

    A datagram is a peer's if it came from its VTEP, or from an unknown sender with an inner frame that has its MAC.
    """
    by_outer: dict[bytes, list[Lease]] = {}
    by_mac: dict[bytes, list[Lease]] = {}
    for lease in leases:
        by_outer.setdefault(int(lease.vtep.address).to_bytes(16, "big"), []).append(lease)
        by_mac.setdefault(lease.vtep.mac.value.to_bytes(6, "big"), []).append(lease)
    found: dict[Lease, Refusal] = {}
    for records in queues:
        for at in islice(_starts(records), MAX_RECORDS):
            verdict = records[at + _VERDICT]
            if records[at + _DIRECTION] != _DECAP or verdict in {0, ANSWERED_VERDICT}:
                continue
            holders = by_outer.get(records[at + _OUTER : at + _OUTER + 16], [])
            if verdict == Drop.UNKNOWN_VTEP:
                mac_at = at + RECORD_LEN + VXLAN_LEN + _MAC_LEN
                holders = by_mac.get(records[mac_at : mac_at + 6], [])
            if (
                holders
                and verdict not in _NOT_THE_SENDER
                and records[at + _FLAGS] & VXLAN_FIRST
                and int.from_bytes(records[at + _TIME : at + _TIME + 8], "big") >= since_ns
                and (record := _record_at(records, at)) is not None
                and record.outer is not None
            ):
                vni = int.from_bytes(record.vxlan[_VNI_OFF : _VNI_OFF + 3], "big")
                found |= dict.fromkeys(holders, Refusal(record.verdict, record.outer, vni))
    return found


def _starts(records: bytes) -> Iterator[int]:
    """Yield the offset of each whole record, without fillers."""
    at = 0
    while at + RECORD_LEN <= len(records):
        record_len = int.from_bytes(records[at : at + 4], "big")
        if records[at + _DIRECTION] >= len(DIRECTIONS):
            at += max(record_len, 1)
            continue
        if record_len < RECORD_LEN or at + record_len > len(records):
            return
        yield at
        at += record_len


def _record_at(records: bytes, at: int) -> FrameRecord | None:
    """Return the record at this offset; None if there is none."""
    if at < 0:
        return None
    try:
        return next(parse(records[at : at + _ROOM]), None)
    except RecordError:  # the sender has put bytes that look like an answer elsewhere
        return None
