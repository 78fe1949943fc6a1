"""Go's flag syntax (package flag), which flanneld's command line has.

`-flag`, `--flag`, `-flag=value` and `-flag value` are the same, but a switch takes a value only after `=`. `--`, or the
first argument that is no flag, ends the flags. A repeated flag replaces its earlier value, unless it makes a list. The
environment has values for flags that the command line lacks: FLANNELD_ and the name in capitals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

from vxland.model.errors import FlagError

Value: TypeAlias = bool | int | str | tuple[str, ...]

_SWITCH = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
_NUMBER = re.compile(  # with single underscores between digits, as Go's literals have them
    r"([+-]?)(0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)", re.ASCII
)
_LONGEST = 70  # 64 bits in base 2, a sign and 0b; the range is checked where the value is used


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of flanneld."""

    name: str
    kind: Literal["text", "switch", "number", "list"]
    default: str
    """The default as a command line spells it; empty for none."""

    meaning: str
    """Effect of the flag on vxland."""

    setting: str = ""
    """The setting that takes the flag's value unchanged, if any."""

    @property
    def variable(self) -> str:
        """The environment variable with the flag's value."""
        return "FLANNELD_" + self.name.upper().replace("-", "_")


@dataclass(slots=True)
class Given:
    """Flags of a command line and an environment."""

    values: dict[str, Value] = field(default_factory=dict)
    """Values by flag; a flag that is not given has none."""

    sources: dict[str, str] = field(default_factory=dict)
    """Source of each flag: `--iface` or `FLANNELD_IFACE`."""

    stray: tuple[str, ...] = ()
    """Arguments after the flags, which flanneld does not read."""

    help: bool = False
    """Whether there is a flag for help; nothing after it is read."""


def parse_flags(argv: Sequence[str], environ: Mapping[str, str], flags: Sequence[Flag]) -> Given:
    """Return the values of `flags`. FlagError for one that is unknown, lacks its value or has one of another kind."""
    by_name = {flag.name: flag for flag in flags}
    given, rest = Given(), list(argv)
    while rest and not given.help:
        if rest[0] == "--":
            del rest[0]
            break
        if len(rest[0]) < 2 or rest[0][0] != "-":
            break
        _take(rest, by_name, given)
    if given.help:
        return given
    given.stray = tuple(rest)
    for flag in flags:
        text = environ.get(flag.variable)
        if text and flag.name not in given.values:
            _put(given, flag, text, flag.variable)
    return given


def _take(rest: list[str], by_name: Mapping[str, Flag], given: Given) -> None:
    """Take one flag and its value off the front of `rest`."""
    word = rest.pop(0)
    name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"{word!r} is no flag; write --NAME=VALUE, or --NAME")
    flag = by_name.get(name)
    if flag is None:
        if name not in {"h", "help"}:
            raise FlagError(f"unknown flag --{name}; {_nearest(name, by_name)}")
        given.help = True
        return
    if not equals:
        if flag.kind != "switch" and not rest:
            raise FlagError(f"--{name} needs a value; write --{name}=VALUE")
        text = "true" if flag.kind == "switch" else rest.pop(0)
    _put(given, flag, text, f"--{name}")


def _put(given: Given, flag: Flag, text: str, source: str) -> None:
    value: Value = text
    if flag.kind == "switch":
        if text not in _SWITCH:
            raise FlagError(f"{source}: {text!r}: write true or false")
        value = _SWITCH[text]
    elif flag.kind == "number":
        value = _number(text, source)
    elif flag.kind == "list":
        before = given.values.get(flag.name, ())
        value = (*(before if isinstance(before, tuple) else ()), text)
    given.values[flag.name] = value
    given.sources[flag.name] = source


def _number(text: str, source: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        raise FlagError(f"{source}: {text[:40]!r}: write a whole number")
    sign, digits = match[1], match[2].replace("_", "")
    octal = digits.startswith("0") and digits.isdigit()
    return int(sign + digits, 8 if octal else 0)


def _nearest(name: str, known: Mapping[str, Flag]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{f'did you mean --{close[0]}? ' if close else ''}'vxland flanneld --help' lists those of flanneld"
