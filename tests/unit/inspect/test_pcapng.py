"""pcapng blocks, read back by scapy and byte by byte."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from scapy.utils import RawPcapNgReader

from vxland.inspect import pcapng

STAMP = 1_795_362_863_418_373_975


@pytest.mark.parametrize("length", range(1, 9))
def test_packets_come_back(length: int) -> None:
    """Bytes of any alignment, the whole length, interface, nanoseconds, direction and comment."""
    raw = bytes(range(length))
    text = pcapng.section("test") + pcapng.interface("flannel.1", "inner", 128) + pcapng.interface("e0", "outer", 0)
    text += pcapng.packet(1, STAMP, raw, 1500, pcapng.OUTBOUND, "grüße", lost=7)
    text += pcapng.statistics(1, STAMP, 1, 7)
    reader = RawPcapNgReader(BytesIO(text))
    found, meta = reader._read_packet()
    assert found == raw
    assert (meta.wirelen, meta.ifname, meta.direction) == (1500, b"e0", pcapng.OUTBOUND)
    assert (meta.tshigh << 32 | meta.tslow, meta.tsresol) == (STAMP, 10**9)
    assert "grüße".encode() in (meta.comments or [meta.comment])
    with pytest.raises(EOFError):
        reader._read_packet()


def test_every_block_has_its_length_twice() -> None:
    """Blocks are chained by their lengths, both ways, and aligned to 32 bits."""
    text = pcapng.section("x") + pcapng.interface("a", "b", 1) + pcapng.packet(0, 1, b"abc", 3, 1, "c")
    at, kinds = 0, []
    while at < len(text):
        kind, length = struct.unpack_from("=II", text, at)
        assert length % 4 == 0
        assert struct.unpack_from("=I", text, at + length - 4) == (length,)
        kinds.append(kind)
        at += length
    assert kinds == [0x0A0D0D0A, 1, 6]
