"""Capture records that vxlandctl reads, and its filter expressions.

0  bytes of the filter's text      1  the text, then records (wire/record.py)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tests.corpus import FRAMES
from tests.frames import vxlan
from tests.fuzz import Check
from tests.fuzz.refusals import check_told
from vxland.inspect import filter as filters
from vxland.inspect import pcapng
from vxland.inspect.records import RecordError, parse
from vxland.wire.record import HDR_LEN, LAYOUT, VXLAN_FIRST

FILTERS = [
    b"",
    b"tcp and not (src host 10.244.0.2 or dst net fd00::/8) port 53",
    b"encap dropped or decap && peer 192.168.111.129 || !icmp",
    b"forwarded answered ip ip6 arp udp src port 1 net 10.244.0.1/16 fd00::1",
    b"((((not not tcp))))",
]


def _record(raw: bytes, flags: int, verdict: int) -> bytes:
    padded = raw + bytes(-len(raw) % 8)
    head = (HDR_LEN + len(padded), flags, verdict, flags, 3, 10**18, 0, 0xC0A86F81, 40000, 0, len(raw), len(raw))
    return LAYOUT.pack(*head) + padded


FILLER = bytes([0, 0, 0, 16, 255]) + bytes(11)
SEEDS = [
    bytes([len(text)]) + text + FILLER + _record(frame, 0, verdict) + _record(vxlan(frame), VXLAN_FIRST, verdict)
    for number, (text, verdict) in enumerate(zip(FILTERS, (0, 255, 7, 0, 1), strict=True))
    for frame in FRAMES[number::3]
]


def checking() -> AbstractContextManager[Check]:
    """Nothing needs to be open."""
    return nullcontext(check)


def check(raw: bytes) -> None:
    """Every record lies in what was given, behind the one before it; its description prints; a block holds it."""
    if not raw:
        return
    text, raw = raw[1 : 1 + raw[0]].decode(errors="replace"), raw[1 + raw[0] :]
    try:
        wanted = filters.parse(text)
    except filters.FilterError as exc:
        check_told(str(exc))
        return
    room = len(raw)
    try:
        records = list(parse(raw))
    except RecordError as exc:
        check_told(str(exc))
        return
    for record in records:
        room -= HDR_LEN + len(record.vxlan) + len(record.frame)
        assert room >= 0
        assert record.direction in {"encap", "decap"}
        assert isinstance(wanted(record, record.packet), bool)
        check_told(str(record.packet))
        block = pcapng.packet(0, record.time_ns, record.frame, record.length, pcapng.INBOUND, record.verdict)
        assert len(block) % 4 == 0
        assert record.frame in block
