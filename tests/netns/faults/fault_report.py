"""The table of docs/reliability.md, as measured by the tests of one run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- what follows is written by `make reliability` -->\n"


@dataclass(frozen=True)
class Row:
    """One fault: its place in the table, its name, and its effect."""

    place: int
    fault: str
    lost: str
    back: str
    said: str

    def __str__(self) -> str:
        return f"| {self.fault} | {self.lost} | {self.back} | {self.said} |"


class FaultReport:
    """Rows of one run, independent of the tests' order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def text(self) -> str:
        """Return heading and table as Markdown."""
        when = f"{datetime.now(UTC):%Y-%m-%d}"
        where = f"Linux {platform.release().partition('-')[0]}, {os.cpu_count()} CPUs for all nodes together"
        head = ("| fault | questions lost | well again after | what the node says |", "|---|---|---|---|")
        return "\n".join([f"{when}, {where}.\n", *head, *map(str, sorted(self.rows, key=lambda row: row.place))]) + "\n"

    def write(self) -> None:
        """Write the table to the page, in place of the previous one."""
        before, mark, _ = PAGE.read_text().partition(BEGIN)
        assert mark, f"{PAGE} has no place for the table"
        PAGE.write_text(before + BEGIN + "\n" + self.text())
