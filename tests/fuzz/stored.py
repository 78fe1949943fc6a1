"""The stored corpora: a text file for each target with a bytes literal on each line."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterable
from pathlib import Path

MAX_LEN = 32_000
"""Bytes of one file."""
_FOLDER = Path(__file__).parent / "corpus"


def inputs(name: str) -> list[bytes]:
    """The stored inputs of a target; none where it has none yet."""
    path = _FOLDER / f"{name}.txt"
    return [literal_eval(line) for line in path.read_text(encoding="ascii").splitlines()] if path.exists() else []


def store(name: str, found: Iterable[bytes]) -> None:
    """Replace the stored inputs of a target: the shortest, as many as the file has room for."""
    lines: list[str] = []
    room = MAX_LEN
    for raw in sorted(set(found), key=lambda raw: (len(raw), raw)):
        line = f"{raw!r}\n"
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    (_FOLDER / f"{name}.txt").write_text("".join(lines), encoding="ascii")
