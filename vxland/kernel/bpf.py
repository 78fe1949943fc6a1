"""A socket filter that takes datagrams of some outer sources only: classic BPF, built from prefixes. Pure.

The program is a decision tree over the source address, 32 bits at a time: one level for IPv4, up to four for IPv6.
A level loads its word and halves the sorted values until some dozens are left, which it compares one by one. On a UDP
socket offsets count from the UDP header; those from SKF_NET_OFF on count from the IP header (linux/filter.h).

The kernel takes 4,096 instructions: 3,800 IPv4 addresses scattered at random. Neighbouring ones make one prefix,
which takes two instructions at most. IPv6 addresses take as many where they share their first 96 bits, and up to six
each where they do not: 600 of them with random interface identifiers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final, TypeAlias

from vxland.model.lease import Subnet

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS of linux/bpf_common.h
INSTRUCTION_LEN: Final = 8

_NET_OFF: Final = 0x1_0000_0000 - 0x10_0000  # SKF_NET_OFF
_SOURCE_AT: Final = {32: _NET_OFF + 12, 128: _NET_OFF + 8}  # by an address's bits; RFC 791 and RFC 8200, section 3
_LOAD, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06  # linux/bpf_common.h
_ALL: Final = 0xFFFF_FFFF  # a word of ones; as a verdict, octets to keep
_LEAF: Final = 64  # values compared one by one, at two instructions at most: a jump passes 255

_Instruction: TypeAlias = tuple[int, int, int, int]
"""Code, instructions to skip where true, where false, operand."""

_Prefix: TypeAlias = tuple[int, int]
"""The bits that are left of an address, as a number, and how many of them count."""

_Span: TypeAlias = tuple[tuple[int, int], list[_Prefix]]
"""First and last of some words, and the prefixes that go on behind them: none, or the one word is not all."""


def build_filter(sources: Iterable[Subnet]) -> bytes | None:
    """A `struct sock_filter[]` that takes what comes from `sources`, of one IP version; None: they are too many."""
    nets = list(sources)
    collapsed: list[Subnet] = [*collapse_addresses(net for net in nets if isinstance(net, IPv4Network))]
    collapsed += collapse_addresses(net for net in nets if isinstance(net, IPv6Network))
    prefixes = [(int(net.network_address), net.prefixlen) for net in collapsed]
    bits = nets[0].max_prefixlen if nets else 32
    code = _level(prefixes, bits, _SOURCE_AT[bits])
    if len(code) > MAX_INSTRUCTIONS:
        return None
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _level(prefixes: Iterable[_Prefix], bits: int, at: int) -> list[_Instruction]:
    """Decide by the word at `at`, and those behind it, of which `bits` bits are left."""
    spans: dict[tuple[int, int], list[_Prefix]] = {}
    for value, length in prefixes:
        first = value >> bits - 32
        deeper = spans.setdefault((first, first | _ALL >> min(length, 32)), [])
        if length > 32:
            deeper.append((value & (1 << bits - 32) - 1, length - 32))
    return [(_LOAD, 0, 0, at), *_tree(sorted(spans.items()), bits, at)]


def _tree(spans: Sequence[_Span], bits: int, at: int) -> list[_Instruction]:
    if len(spans) <= _LEAF:
        return _leaf(spans, bits, at)
    half = len(spans) // 2
    left, right = _tree(spans[:half], bits, at), _tree(spans[half:], bits, at)
    pivot = spans[half][0][0]
    if len(left) <= 0xFF:
        return [(_AT_LEAST, len(left), 0, pivot), *left, *right]
    return [(_AT_LEAST, 0, 1, pivot), (_JUMP, 0, 0, len(left)), *left, *right]


def _leaf(spans: Sequence[_Span], bits: int, at: int) -> list[_Instruction]:
    """Compare one by one, then refuse; behind that the verdict to take, and the levels below."""
    compared = sum(1 if first == last and not deeper else 2 for (first, last), deeper in spans)
    code: list[_Instruction] = []
    below: list[_Instruction] = []
    for (first, last), deeper in spans:
        if deeper:  # the word is matched, and those behind it decide
            code += [(_EQUAL, 0, 1, first), (_JUMP, 0, 0, compared - len(code) + len(below))]
            below += _level(deeper, bits - 32, at + 4)
        elif first == last:
            code.append((_EQUAL, compared - len(code), 0, first))
        else:
            code += [(_AT_LEAST, 0, 1, first), (_GREATER, 0, compared - len(code) - 1, last)]
    return [*code, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _ALL), *below]
