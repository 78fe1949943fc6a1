"""Text from outside, shown."""

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
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    """A node's name with escape sequences wrote to the terminal of whoever asked for the status."""
    assert printable(text, 100) == shown


def test_a_long_text_is_cut() -> None:
    """An error text of megabytes must not fill the log; the work is bounded by the limit too."""
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("x" * 11, 10) == "x" * 7 + "..."
    assert printable("\x1b" * 1_000_000, 20) == r"\x1b" * 4 + r"\..."
    assert printable("xxxx", 2) == ".."


@given(st.text(st.characters()), st.integers(0, 40))
def test_whatever_comes_stays_on_one_line_within_the_limit(text: str, limit: int) -> None:
    """Control characters, bidirectional marks and lone surrogates included."""
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()  # no lone surrogate is left, which no UTF-8 file or terminal takes
