"""The documentation keeps its promises: links lead somewhere, examples load, every drop reason is told."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from vxland.config import parse
from vxland.datapath.verdict import Drop
from vxland.ops.reasons import REASONS

ROOT = Path(__file__).parents[2]
PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/*.md")))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def test_readme_examples_join_two_nodes() -> None:
    """The two YAML files of the README load, and each is the other's peer."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    first, second = (parse(block) for block in blocks if "registry:" in block)
    for here, there in ((first, second), (second, first)):
        (lease,) = here.peers
        assert (lease.subnet,) == there.own_subnets
        assert lease.vtep.address == there.underlay.address
        assert lease.vtep.mac == there.overlay.mac


def test_every_drop_reason_is_documented() -> None:
    """docs/drops.md has one row for each reason and no other, and says what trace does."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "drops.md").read_text(), re.MULTILINE
    )
    assert {word: told for word, *told in rows} == {word: list(reason) for word, reason in REASONS.items()}
    assert len(rows) == len(Drop)
