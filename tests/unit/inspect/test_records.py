"""Records that are none: no reader waits for their end."""

from __future__ import annotations

import pytest

from vxland.inspect.records import RecordError, parse, whole_len
from vxland.wire.record import HDR_LEN

FILLER = 255


@pytest.mark.parametrize(("length", "kind"), [(0, 0), (HDR_LEN - 8, 1), (0, FILLER), (7, FILLER)])
def test_a_record_that_cannot_end_is_refused(length: int, kind: int) -> None:
    """Shorter than its own header, so that the next would begin within it."""
    raw = length.to_bytes(4, "big") + bytes([kind]) + bytes(HDR_LEN)
    with pytest.raises(RecordError, match=f"a record of {length} bytes"):
        whole_len(raw)
    with pytest.raises(RecordError):
        list(parse(raw))


def test_an_incomplete_record_waits_for_its_rest() -> None:
    """It is left out, and what lies before it counts."""
    filler = (16).to_bytes(4, "big") + bytes([FILLER]) + bytes(11)
    assert whole_len(filler + filler[:9]) == 16
    assert list(parse(filler + filler[:9])) == []
