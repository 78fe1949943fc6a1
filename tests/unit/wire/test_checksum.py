"""RFC 1071 sums and RFC 1624 updates, against the RFCs' own numbers, a one-carry-at-a-time sum, and scapy."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from tests.frames import UDP, checksum, pseudo_header, tcp, udp, word_sum
from vxland.wire.checksum import adjust, complement, finish, fold, sum_bytes, sum_u64

WORDS = st.integers(0, 0xFFFF)


def test_the_example_of_rfc_1071() -> None:
    """Section 3: the bytes 00 01 f2 03 f4 f5 f6 f7 sum to ddf2."""
    assert fold(sum_bytes(bytearray.fromhex("0001f203f4f5f6f7"), 0, 8, 0)) == 0xDDF2


def test_the_example_of_rfc_1624() -> None:
    """Section 4: checksum dd2f, a word from 5555 to 3285; the correct answer is 0000, not ffff."""
    assert adjust(0xDD2F, 0x5555, 0x3285) == 0x0000


@pytest.mark.parametrize("total", [0, 1, 0xFFFF, 0x1_0000, 0x1_FFFF, 0xFFFF_FFFF, (1 << 63) - 1, (1 << 64) - 1])
def test_fold_adds_every_carry_back(total: int) -> None:
    """16 bits, equal modulo ffff, zero for zero alone."""
    folded = fold(total)
    assert 0 <= folded <= 0xFFFF
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)
    assert complement(total) == folded ^ 0xFFFF


@settings(max_examples=200)
@given(st.binary(max_size=90), st.integers(0, 3), st.integers(0, 1 << 40))
def test_sums_agree_with_the_naive_one(raw: bytes, at: int, start: int) -> None:
    """Any length, odd ones too, any place; what surrounds the bytes does not count."""
    buf = bytearray(b"\xff" * at + raw + b"\xff" * 3)
    assert fold(sum_bytes(buf, at, len(raw), 0)) == word_sum(raw)
    assert complement(sum_bytes(buf, at, len(raw), 0)) == checksum(raw) == scapy_checksum(raw)
    assert sum_bytes(buf, at, len(raw), start) == start + sum_bytes(buf, at, len(raw), 0)


@pytest.mark.parametrize("value", [0, 1, 0xFFFF, 0xFFFF_0000_0001_0000, (1 << 64) - 1])
def test_sum_u64_sums_its_four_words(value: int) -> None:
    """Equal to the sum of the number's bytes."""
    assert fold(sum_u64(value)) == word_sum(value.to_bytes(8, "big"))


@settings(max_examples=300)
@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(0, 11), WORDS)
def test_adjust_agrees_with_a_new_sum(words: list[int], index: int, new: int) -> None:
    """RFC 1624 equation 3: one changed word, the same checksum as summing everything again."""
    index %= len(words)
    raw = b"".join(word.to_bytes(2, "big") for word in words)
    changed = raw[: 2 * index] + new.to_bytes(2, "big") + raw[2 * index + 2 :]
    assume(any(raw))
    assume(any(changed))  # a sum of zeros alone has two checksums; no header is all zero
    assert adjust(checksum(raw), words[index], new) == checksum(changed)


@pytest.mark.parametrize("payload", [b"", b"x", b"even", bytes(range(251))])
def test_finish_turns_a_partial_checksum_into_the_right_one(payload: bytes) -> None:
    """A field that holds the pseudo-header's sum, as Linux leaves it to devices, becomes what the sender meant."""
    for build, field in ((udp, 6), (tcp, 16)):
        partial = build("10.244.0.1", "10.244.1.2", payload, partial=True)
        buf = bytearray(b"\xee" * 5 + partial + b"\xee")
        finish(buf, 5, len(partial), field)
        assert buf == b"\xee" * 5 + build("10.244.0.1", "10.244.1.2", payload) + b"\xee"


def test_finish_never_writes_zero() -> None:
    """RFC 768: a sum whose complement is zero is sent as ffff, since zero says that there is no checksum."""
    src, dst = "10.244.0.1", "10.244.1.2"
    rest = checksum(pseudo_header(src, dst, UDP, 10) + udp(src, dst, b"\0\0")[:6])
    partial = udp(src, dst, rest.to_bytes(2, "big"), partial=True)
    assert checksum(pseudo_header(src, dst, UDP, 10) + partial[:6] + partial[8:]) == 0
    buf = bytearray(partial)
    finish(buf, 0, len(partial), 6)
    assert buf[6:8] == b"\xff\xff"
