"""Text from outside as a terminal or a log may show it. Pure."""

from __future__ import annotations

from typing import Final

_CUT: Final = "..."


def printable(text: str, limit: int) -> str:
    r"""Return `text` on one line of at most `limit` characters; a longer one ends in `...`.

    Control characters, escape sequences, bidirectional overrides, blanks other than the space and lone surrogates are
    written as Python's escapes, such as `\x1b` and `\u202e`, so that no terminal obeys them.
    """
    shown = text[: limit + 1]  # an escape is longer than its character, so nothing behind can be shown
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)
    return shown if len(shown) <= limit else shown[: max(0, limit - len(_CUT))] + _CUT[:limit]
