"""A socket filter (BPF, classic) that passes packets whose source has only zeros behind a prefix, such as 10.244.1.0.

Nodes of a flannel cluster have the first address of their subnet, which no pod has. A filter of one short comparison
for each prefix length keeps pods away, with no answer at all: the kernel drops even the SYN of a connection.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterable
from struct import Struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_NETWORK_HEADER: Final = 0xFFF0_0000  # linux/filter.h: SKF_NET_OFF, offsets from the IP header
_LOAD_WORD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # linux/bpf_common.h
_WORD_BITS: Final = 32
_SOURCE_OFF: Final = {4: 12, 6: 8}
_BITS: Final = {4: 32, 6: 128}
_PASS: Final = 0xFFFF_FFFF
_INSTRUCTION: Final = Struct("=HBBI")
_PROGRAM: Final = Struct("@HP")


def attach(sock: socket.socket, version: int, prefix_lengths: Iterable[int]) -> None:
    """Let only such packets reach the socket from now on; it may be attached again with other lengths."""
    code = program(version, prefix_lengths)
    held = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(code) // _INSTRUCTION.size, ctypes.addressof(held))
    )


def program(version: int, prefix_lengths: Iterable[int]) -> bytes:
    """Return the filter's instructions."""
    instructions = []
    for length in sorted(set(prefix_lengths)):
        words = list(_host_words(version, length))
        for place, (offset, mask) in enumerate(words):
            rest = 3 * (len(words) - place) - 2  # instructions of this length that follow the comparison
            instructions += [
                _INSTRUCTION.pack(_LOAD_WORD, 0, 0, _NETWORK_HEADER + offset),
                _INSTRUCTION.pack(_AND, 0, 0, mask),
                _INSTRUCTION.pack(_IF_EQUAL, 0, rest, 0),
            ]
        instructions.append(_INSTRUCTION.pack(_RETURN, 0, 0, _PASS))
    return b"".join([*instructions, _INSTRUCTION.pack(_RETURN, 0, 0, 0)])


def _host_words(version: int, prefix_length: int) -> Iterable[tuple[int, int]]:
    """Yield offset and mask of each word of the source that has bits behind the prefix."""
    host = (1 << _BITS[version] - prefix_length) - 1
    for word in range(_BITS[version] // _WORD_BITS):
        mask = host >> (_BITS[version] - _WORD_BITS * (word + 1)) & 0xFFFF_FFFF
        if mask:
            yield _SOURCE_OFF[version] + 4 * word, mask
