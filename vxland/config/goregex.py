r"""Translation of Go's regular expressions (RE2) to Python's, so that flanneld's `--iface-regex` means the same here.

Both look alike, but `[[:digit:]]`, `\z`, `\Q...\E` and `\pL` mean something else in Python, or nothing; `$`, `\d` and
`\w` match more; flags such as `(?i)` may stand anywhere in Go; and Go has neither lookaround nor backreferences. A
construct without a counterpart is refused by name. Go: regexp/syntax, package documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from vxland.model.text import printable

MAX_LENGTH: Final = 1000
_MAX_REPEAT: Final = 1000  # Go's
_MAX_DEPTH: Final = 100  # Go's is 1,000; each level is one of Python's stack
_LAST: Final = 0x10FFFF

_CLASSES: Final = {
    "alnum": "09AZaz",
    "alpha": "AZaz",
    "ascii": "\0\x7f",
    "blank": "\t\t  ",
    "cntrl": "\0\x1f\x7f\x7f",
    "digit": "09",
    "graph": "!~",
    "lower": "az",
    "print": " ~",
    "punct": "!/:@[`{~",
    "space": "\t\r  ",
    "upper": "AZ",
    "word": "09AZaz__",
    "xdigit": "09AFaf",
}
"""Pairs of first and last characters."""

_PERL: Final = {"d": "09", "s": "\t\n\f\r  ", "w": "09AZaz__"}
_CONTROL: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_REPEAT: Final = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_FLAGS: Final = re.compile(r"\(\?([imsU]*)(-[imsU]+)?([:)])")
_ESCAPE: Final = re.compile(r"\\(x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|(0[0-7]{0,2}|[1-7][0-7]{1,2})|.)", re.DOTALL)
_NAMED: Final = re.compile(r"\(\?P?<([A-Za-z0-9_]+)>")

Ranges: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Set:
    """A set of characters: listed ones, which `(?i)` widens, and complements of others, which it must not widen."""

    listed: Ranges
    others: Ranges = field(default_factory=list)

    @property
    def single(self) -> int:
        """The code of the only character; -1 if there are more."""
        alone = not self.others and len(self.listed) == 1 and self.listed[0][0] == self.listed[0][1]
        return self.listed[0][0] if alone else -1

    def written(self, flags: str, *, negated: bool = False) -> str:
        """Return the set in Python's syntax."""
        listed = _cased(_brackets(self.listed), flags) if self.listed else ""
        found = "|".join(part for part in (listed, _brackets(self.others) if self.others else "") if part)
        return f"(?:(?!{found})(?s:.))" if negated else f"(?:{found})"


def translate(pattern: str) -> str:
    """Return a pattern of Go in Python's syntax. ValueError, whose text is the remedy, if it has no counterpart."""
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"use at most {MAX_LENGTH} characters")
    reader = _Reader(pattern)
    found = reader.alternatives("", 0)
    if reader.rest:
        raise ValueError("remove the ) that closes nothing")
    return found


class _Reader:
    """Reader of a pattern: a recursive descent that writes Python's syntax."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def rest(self) -> str:
        """The part that is not read yet."""
        return self._pattern[self._at :]

    def alternatives(self, flags: str, depth: int) -> str:
        """Translate up to a ) that is not read, or the end. Flags set inside hold up to there."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"nest at most {_MAX_DEPTH} groups")
        written: list[str] = []
        while self.rest and self.rest[0] != ")":
            if self._takes("|"):
                written.append("|")
                continue
            found = _FLAGS.match(self.rest)
            if found and found[3] == ")":
                self._at += len(found[0])
                flags = _changed(flags, found)
                continue
            written.append(self._repeated(self._atom(flags, depth), flags))
        return "".join(written)

    def _takes(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _atom(self, flags: str, depth: int) -> str:
        char = self.rest[0]
        if char == "(":
            return self._group(flags, depth)
        if char == "[":
            return self._bracket(flags)
        if char == "\\":
            return self._escape(flags)
        if char in "*+?" or _REPEAT.match(self.rest):
            _refuse(self.rest[:4], "put something to repeat before it")
        self._at += 1
        match char:
            case ".":
                return "(?s:.)" if "s" in flags else r"[^\n]"
            case "^":
                return "(?m:^)" if "m" in flags else r"(?:\A)"
            case "$":
                return "(?m:$)" if "m" in flags else r"(?:\Z)"
        return _cased(re.escape(char), flags)

    def _repeated(self, atom: str, flags: str) -> str:
        """Return the atom with the operator that follows, if any."""
        found = _REPEAT.match(self.rest)
        if found:
            numbers = [int(text[:5]) for text in (found[1], found[3] or found[1])]
            if max(numbers) > _MAX_REPEAT or numbers[0] > numbers[1]:
                _refuse(found[0], f"repeat at most {_MAX_REPEAT} times, the smaller number first")
            operator = found[0]
        elif self.rest[:1] in ("*", "+", "?"):
            operator = self.rest[0]
        else:
            return atom
        self._at += len(operator)
        lazy = self._takes("?") is not ("U" in flags)
        if self.rest[:1] in ("*", "+", "?") or _REPEAT.match(self.rest):
            _refuse(operator + self.rest[:1], "put parentheses around what is repeated twice")
        return f"(?:{atom}){operator}{'?' if lazy else ''}"

    def _group(self, flags: str, depth: int) -> str:
        found = _FLAGS.match(self.rest) or _NAMED.match(self.rest)
        if found is None and self.rest.startswith("(?"):
            _refuse(self.rest[:4], "Go has no lookaround and no such group: match what the name or address has")
        self._at += len(found[0]) if found else 1
        inner = self.alternatives(_changed(flags, found) if found and found.re is _FLAGS else flags, depth + 1)
        if not self._takes(")"):
            raise ValueError("close the group with )")
        return f"(?:{inner})"

    def _escape(self, flags: str) -> str:
        """Translate an escape outside of brackets."""
        if self._takes("\\Q"):
            text, _, _ = self.rest.partition("\\E")
            self._at += len(text)
            self._takes("\\E")
            before, last = text[:-1], text[-1:]
            return "".join(_cased(re.escape(char), flags) for char in before) + self._repeated(
                _cased(re.escape(last), flags) if last else "(?:)", flags
            )
        for go, python in (("\\A", r"(?:\A)"), ("\\z", r"(?:\Z)"), ("\\b", r"(?a:\b)"), ("\\B", r"(?a:\B)")):
            if self._takes(go):
                return python
        return self._escaped().written(flags)

    def _bracket(self, flags: str) -> str:
        self._at += 1
        negated, first = self._takes("^"), True
        listed: Ranges = []
        others: Ranges = []
        while first or not self.rest.startswith("]"):
            first = False
            named = re.match(r"\[:(\^?)(\w*):\]", self.rest)
            if named:
                if named[2] not in _CLASSES:
                    _refuse(named[0], f"the classes are {', '.join(_CLASSES)}")
                self._at += len(named[0])
                found = _set(_CLASSES[named[2]], negated=bool(named[1]))
            else:
                found = self._member()
                if found.single >= 0 and re.match(r"-[^\]]", self.rest):
                    self._at += 1
                    last = self._member().single
                    if last < found.single:
                        raise ValueError("write ranges in brackets from the lower to the higher character")
                    found = _Set([(found.single, last)])
            listed += found.listed
            others += found.others
        self._at += 1
        return _Set(listed, others).written(flags, negated=negated)

    def _member(self) -> _Set:
        if not self.rest:
            raise ValueError("close the class with ]")
        if self.rest[0] == "\\":
            return self._escaped()
        self._at += 1
        return _Set([(ord(self._pattern[self._at - 1]),) * 2])

    def _escaped(self) -> _Set:
        r"""Return the characters of an escape such as \d, \x2e or \., in brackets or not."""
        found = _ESCAPE.match(self.rest)
        if found is None:
            raise ValueError("put something behind the backslash at the end")
        self._at += len(found[0])
        what, wide, narrow, octal = found.groups()
        if wide or narrow or octal:
            code = int(octal, 8) if octal else int(wide or narrow, 16)
            if code > _LAST:
                _refuse(found[0], "there is no such character")
            return _Set([(code, code)])
        if what.lower() in _PERL:
            return _set(_PERL[what.lower()], negated=what.isupper())
        if what in _CONTROL:
            return _Set([(_CONTROL[what],) * 2])
        if what in "pP":
            _refuse(
                found[0] + (self.rest.partition("}")[0] + "}" if self.rest[:1] == "{" else self.rest[:1]),
                "list the letters, as in [A-Za-z]: vxland has no classes of Unicode",
            )
        if what.isdigit():
            _refuse(found[0], "Go has no references back to a group")
        if what.isalnum() or ord(what) > 0x7F:
            _refuse(found[0], "Go has no such escape")
        return _Set([(ord(what),) * 2])


def _changed(flags: str, found: re.Match[str]) -> str:
    """Return the flags after `(?on-off`."""
    off = found[2] or ""
    return "".join(sorted((set(flags) | set(found[1])) - set(off)))


def _set(pairs: str, *, negated: bool) -> _Set:
    """Return the characters between the first and the second of each pair, or all others."""
    listed = sorted((ord(first), ord(last)) for first, last in zip(pairs[::2], pairs[1::2], strict=True))
    if not negated:
        return _Set(listed)
    others: Ranges = []
    at = 0
    for first, last in listed:
        if first > at:
            others.append((at, first - 1))
        at = last + 1
    return _Set([], [*others, (at, _LAST)])


def _brackets(ranges: Ranges) -> str:
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]"


def _cased(text: str, flags: str) -> str:
    return f"(?i:{text})" if "i" in flags else text


def _refuse(what: str, remedy: str) -> NoReturn:
    raise ValueError(f"'{printable(what, 40)}' cannot be used: {remedy}")
