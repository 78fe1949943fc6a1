"""Datagrams of `vxlandctl test`: what is built reads back, and a reply is as long as its request."""

from __future__ import annotations

import pytest

from vxland.wire.path_check import (
    HDR_LEN,
    TOKEN_LEN,
    WITH_COUNTERS,
    BadChecksums,
    Reply,
    Request,
    build_reply,
    build_request,
    parse_reply,
    parse_request,
)

TOKEN = bytes(range(TOKEN_LEN))


@pytest.mark.parametrize("length", [HDR_LEN, HDR_LEN + 1, HDR_LEN + TOKEN_LEN, 1422])
def test_a_request_and_its_reply(length: int) -> None:
    """Both have the wanted length; the reply has token and counters."""
    request = build_request(Request(WITH_COUNTERS, TOKEN), length)
    assert len(request) == length
    assert parse_request(request) == Request(WITH_COUNTERS, TOKEN)
    reply = build_reply(request, BadChecksums(3, 1 << 70))
    assert len(reply) == length
    assert parse_reply(reply) == Reply(TOKEN, BadChecksums(3, (1 << 64) - 1))


def test_a_reply_is_no_request() -> None:
    """Two responders cannot answer each other."""
    request = build_request(Request(0, TOKEN), 100)
    reply = build_reply(request, BadChecksums())
    assert parse_request(reply) is None
    assert parse_reply(request) is None


def test_every_shorter_datagram() -> None:
    """A truncated request is none; a reply is truncated where its padding may end."""
    request = build_request(Request(0, TOKEN), HDR_LEN)
    reply = build_reply(request, BadChecksums())
    for length in range(HDR_LEN):
        assert parse_request(request[:length]) is None
        assert parse_reply(reply[:length]) is None


@pytest.mark.parametrize("at", [*range(12), HDR_LEN, 99])
def test_a_changed_byte(at: int) -> None:
    """Of magic, kind or padding: no good reply. Of the flags, which do not matter in a reply, it is one."""
    reply = bytearray(build_reply(build_request(Request(0, TOKEN), 100), BadChecksums()))
    reply[at] ^= 0x40
    assert (parse_reply(bytes(reply)) is None) is (at not in {9, 10, 11})
