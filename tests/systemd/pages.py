"""Commands and files of docs/install.md, for a node that has nothing of vxland."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.installed import ROOT
from tests.systemd.node import MAC, Node

_MADE_BY_OTHER_TESTS = (
    "/opt/vxland",
    "/usr/local/bin/vxland",
    "/usr/local/bin/vxlandctl",
    "/usr/lib/sysctl.d/50-vxland.conf",
    "/usr/lib/sysusers.d/vxland.conf",
    "/usr/lib/systemd/system/vxland.service",
    "/usr/lib/systemd/system/vxland@.service",
)


@dataclass(frozen=True, slots=True)
class TwoNodes:
    """The section of that name: both files, and the commands that start the service."""

    files: tuple[str, str]
    start: str


def blocks(title: str) -> list[str]:
    """Return the indented blocks of a section."""
    text = (ROOT / "docs" / "install.md").read_text()
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?:    .*\n)+", section)]


def two_nodes() -> TwoNodes:
    """Return the section that is the same for every way to install."""
    first, second, start = blocks("Two nodes")
    assert MAC[0] in first
    return TwoNodes((first, second), start)


def make_fresh(node: Node) -> None:
    """Remove what other tests put into the root file system; a new system has no compiler either."""
    node.run("rm", "-rf", *_MADE_BY_OTHER_TESTS)
    node.attempt("userdel", "vxland")
    assert not has_compiler(node)


def has_compiler(node: Node) -> bool:
    """Return whether a C compiler is installed."""
    return node.attempt("sh", "-c", "command -v cc || command -v gcc || command -v clang").returncode == 0


def start_two_nodes(pair: tuple[Node, Node]) -> None:
    """Write the page's files, and start both services as it says."""
    page = two_nodes()
    for node in pair:
        (node.etc / "vxland.yaml").write_text(page.files[node.number])
    for node in pair:
        node.run("sh", "-euc", page.start)
