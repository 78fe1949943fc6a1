"""Requirements on the text of a refusal."""

from __future__ import annotations

LONGEST = 2000


def check_told(text: str) -> None:
    """One line that prints, of a length that fits a log."""
    assert 0 < len(text) <= LONGEST, len(text)
    assert text.isprintable(), text
