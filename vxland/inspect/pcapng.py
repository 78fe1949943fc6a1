"""Blocks of a pcapng file, draft-ietf-opsawg-pcapng. All interfaces are Ethernet: libpcap requires one kind."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from vxland.wire.bigendian import Buffer

INBOUND, OUTBOUND = 1, 2

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D_0D0A, 1, 5, 6
_MAGIC = 0x1A2B_3C4D
_LINKTYPE_ETHERNET = 1
_NANOSECONDS = 9

# Options, by block.
_END, _COMMENT = 0, 1
_SHB_USERAPPL = 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS, _EPB_DROPCOUNT = 2, 4
_ISB_IFRECV, _ISB_IFDROP = 4, 5

Option = tuple[int, bytes]


def section(program: str) -> bytes:
    """Return the first block of a file; `program` names its writer."""
    unknown_len = 0xFFFF_FFFF_FFFF_FFFF
    return _block(_SECTION, pack("=IHHQ", _MAGIC, 1, 0, unknown_len), [(_SHB_USERAPPL, program.encode())])


def interface(name: str, description: str, snaplen: int) -> bytes:
    """Return the block of an interface; packets refer to it by its position in the file, from 0."""
    options = [
        (_IF_NAME, name.encode()),
        (_IF_DESCRIPTION, description.encode()),
        (_IF_TSRESOL, bytes([_NANOSECONDS])),
    ]
    return _block(_INTERFACE, pack("=HHI", _LINKTYPE_ETHERNET, 0, snaplen), options)


def packet(number: int, time_ns: int, raw: Buffer | bytes, length: int, way: int, comment: str, lost: int = 0) -> bytes:
    """Return the block of a packet of interface `number`; `way` is INBOUND or OUTBOUND, `lost` packets precede it."""
    body = pack("=IIIII", number, time_ns >> 32, time_ns & 0xFFFF_FFFF, len(raw), max(length, len(raw)))
    options = [(_COMMENT, comment.encode()), (_EPB_FLAGS, pack("=I", way))]
    if lost:
        options.append((_EPB_DROPCOUNT, pack("=Q", lost)))
    return _block(_PACKET, body + _padded(bytes(raw)), options)


def statistics(number: int, time_ns: int, received: int, lost: int) -> bytes:
    """Return the block with the totals of interface `number`."""
    body = pack("=III", number, time_ns >> 32, time_ns & 0xFFFF_FFFF)
    return _block(_STATISTICS, body, [(_ISB_IFRECV, pack("=Q", received)), (_ISB_IFDROP, pack("=Q", lost))])


def _block(kind: int, body: bytes, options: Sequence[Option]) -> bytes:
    body += b"".join(pack("=HH", code, len(value)) + _padded(value) for code, value in options) + pack("=HH", _END, 0)
    length = pack("=I", len(body) + 12)
    return pack("=I", kind) + length + body + length


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)
