"""Structs of a BPF object as its BTF describes them (Documentation/bpf/btf.rst), and the sections of its ELF file."""

from __future__ import annotations

from dataclasses import dataclass
from struct import calcsize, iter_unpack, unpack_from

_TRAILERS = {1: 4, 3: 12, 14: 4, 17: 4}  # bytes behind the types of a fixed length: INT, ARRAY, VAR, DECL_TAG
_ELEMENTS = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # and for each element: STRUCT, UNION, ENUM, FUNC_PROTO, ...
_STRUCT = 4


@dataclass(frozen=True)
class Struct:
    """The bytes of a struct, and the offset of each member."""

    size: int
    offsets: dict[str, int]


def sections(image: bytes) -> dict[str, bytes]:
    """Return the sections of a little-endian ELF file of 64 bits by name: elf(5)."""
    (table_at,) = unpack_from("<Q", image, 0x28)
    entry_len, count, names_index = unpack_from("<3H", image, 0x3A)
    headers = [unpack_from("<IIQQQQ", image, table_at + i * entry_len) for i in range(count)]
    names = image[headers[names_index][4] :]
    return {
        names[name_at : names.index(0, name_at)].decode(): image[at : at + length]
        for name_at, _, _, _, at, length in headers
    }


def structs(image: bytes) -> dict[str, Struct]:
    """Return the structs of an object by name."""
    btf = sections(image)[".BTF"]
    header_len, types_at, types_len, strings_at, _ = unpack_from("<5I", btf, 4)
    types = btf[header_len + types_at :][:types_len]
    strings = btf[header_len + strings_at :]

    def name(at: int) -> str:
        return strings[at : strings.index(0, at)].decode()

    found, at = {}, 0
    while at < len(types):
        name_at, info, size = unpack_from("<3I", types, at)
        at += calcsize("<3I")
        kind, elements = info >> 24 & 0x1F, info & 0xFFFF
        body = types[at : at + elements * _ELEMENTS.get(kind, 0)]
        at += len(body) + _TRAILERS.get(kind, 0)
        if kind == _STRUCT:
            found[name(name_at)] = Struct(size, {name(member): bit // 8 for member, _, bit in iter_unpack("<3I", body)})
    return found
