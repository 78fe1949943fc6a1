"""Foreign text in a form that is safe for a terminal or a log. Pure."""

from __future__ import annotations

from typing import Any, Final

_CUT: Final = "..."
_LINK_NAME_LEN: Final = 15 * len(r"\udcff")  # IFNAMSIZ less its NUL, each byte an escape


def printable(text: str, limit: int) -> str:
    r"""Return `text` on one line of at most `limit` characters; a longer one ends in `...`.

    Control characters, escape sequences, bidirectional overrides, blanks other than the space and lone surrogates are
    written as Python's escapes, such as `\x1b` and `\u202e`, so that no terminal obeys them.
    """
    shown = text[: limit + 1]  # an escape is longer than its character, so nothing beyond fits
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)
    return shown if len(shown) <= limit else shown[: max(0, limit - len(_CUT))] + _CUT[:limit]


def link_name(name: str) -> str:
    """Return an interface's name, which may hold any byte but `/`, `:` and blanks, as printable() shows it."""
    return printable(name, _LINK_NAME_LEN)


def shown(value: Any, limit: int) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return a value of JSON with every text in it, keys included, as printable() shows it."""
    if isinstance(value, str):
        return printable(value, limit)
    if isinstance(value, dict):
        return {shown(key, limit): shown(each, limit) for key, each in value.items()}
    if isinstance(value, list):
        return [shown(each, limit) for each in value]
    return value
