"""Foreign text, made safe for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("node-1 is away", "node-1 is away"),
        ("Knoten für Zürich", "Knoten für Zürich"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("one\r\ntwo\ttabs", r"one\r\ntwo\ttabs"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202edcb", r"abc\u202edcb"),
        ("line\u2028separator", r"line\u2028separator"),
        ("lone \udc80", r"lone \udc80"),
        ("", ""),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    """A node's name with escape sequences controlled the terminal of the operator who asked for the status."""
    assert printable(text, 100) == shown


def test_a_long_text_is_cut() -> None:
    """An error text of megabytes must not fill the log; the limit also bounds the work."""
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("x" * 11, 10) == "x" * 7 + "..."
    assert printable("\x1b" * 1_000_000, 20) == r"\x1b" * 4 + r"\..."
    assert printable("xxxx", 2) == ".."


@given(st.text(st.characters()), st.integers(0, 40))
def test_any_text_stays_on_one_line_within_the_limit(text: str, limit: int) -> None:
    """Control characters, bidirectional marks and lone surrogates are escaped."""
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()  # no lone surrogate is left, which no UTF-8 file or terminal takes
