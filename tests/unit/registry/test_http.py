"""Lines and objects from a store's server: cut at any byte, and bounded."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from vxland.model.log_quota import LogQuota
from vxland.registry.bounded_json import Bounds, parse_object
from vxland.registry.errors import TooLargeError
from vxland.registry.http import read_lines

BOUNDS = Bounds(20, 5)


def stream_of(parts: list[bytes]) -> aiohttp.StreamReader:
    """Return a stream of chunks, as from a socket."""
    stream = aiohttp.StreamReader(BaseProtocol(asyncio.get_running_loop()), 1 << 16)
    for part in parts:
        stream.feed_data(part)
    stream.feed_eof()
    return stream


@given(st.lists(st.binary(max_size=6).map(lambda raw: raw.replace(b"\n", b"x"))), st.data())
async def test_lines_are_whole_wherever_the_chunks_end(texts: list[bytes], data: st.DataObject) -> None:
    """Every line that is not blank arrives in order; an incomplete last one does not."""
    stream = b"".join(text + b"\n" for text in texts) + data.draw(st.sampled_from([b"", b"unfinished"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [line async for line in read_lines(stream_of(parts), BOUNDS)] == [text for text in texts if text.strip()]


@pytest.mark.parametrize("parts", [[b"x" * 21 + b"\n"], [b"x" * 11, b"x" * 10], [b"ok\n" + b"x" * 21]])
async def test_a_line_beyond_the_bound_is_an_error(parts: list[bytes]) -> None:
    """With an end or without, it used memory without limit."""
    with pytest.raises(TooLargeError):
        _ = [line async for line in read_lines(stream_of(parts), BOUNDS)]


async def test_blank_lines_leave_time_for_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that sent nothing else used all of the event loop: on a busy machine vxlandctl waited 5 s in vain."""
    rests: list[None] = []

    class Slice:
        def begin(self) -> None:
            """Do nothing."""

        async def pause(self) -> None:
            rests.append(None)

    monkeypatch.setattr("vxland.registry.http.TimeSlice", Slice)
    assert [line async for line in read_lines(stream_of([b"\n" * 1000]), BOUNDS)] == []
    assert len(rests) == 1


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"null", b"{", b"\xff", b'{"a":NaN}', b'{"a":-Infinity}', b"[" * 5])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    """So are numbers that JSON does not have."""
    with pytest.raises(ValueError, match=r"."):
        parse_object(raw, BOUNDS)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_object(b"[" * 100_000, Bounds(100_000, 100_000))


def test_an_object_of_too_many_values_is_refused() -> None:
    """3 bytes of text used 60 in memory."""
    assert parse_object(b'{"a":[1,2,3]}', BOUNDS) == {"a": [1, 2, 3]}
    with pytest.raises(TooLargeError):
        parse_object(b'{"a":[1,2,3,4,5]}', BOUNDS)


def test_lines_of_the_log_are_counted_by_the_minute() -> None:
    """Two lines, then one a minute that reports the limit."""
    times = iter((0.0, 1.0, 2.0, 3.0, 60.0, 60.5, 61.0, 63.0))
    quota = LogQuota("entries", 2, lambda: next(times))
    with capture_logs() as logged:
        allowed = [quota.allows() for _ in range(8)]
    assert allowed == [True, True, False, False, True, False, True, False]
    assert [(entry["event"], entry["what"], entry["lines"]) for entry in logged] == [
        ("log_lines_left_out", "entries", 2),
        ("log_lines_left_out", "entries", 2),
    ]
