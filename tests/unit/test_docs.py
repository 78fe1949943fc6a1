"""The documentation keeps its promises: links and files are there, examples load, bytes and drop reasons are true."""

from __future__ import annotations

import re
import runpy
from itertools import chain
from pathlib import Path

import pytest

from vxland.config import parse
from vxland.datapath.verdict import Drop
from vxland.inspect.reasons import QUEUES, REASONS

ROOT = Path(__file__).parents[2]
PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/**/*.md")))
SOURCES = {
    str(path.relative_to(ROOT)) for top in ("vxland", "tests", "docs", "tools") for path in (ROOT / top).rglob("*.py")
}
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_modules_exist(page: Path) -> None:
    """A module that a page names, such as `forwarding/encap.py`, is there."""
    text = page.read_text()
    named = {*re.findall(r"`([\w/]+\.py)`", text), *re.findall(r"(?<![\w./-])([a-z_]+/[\w/]+\.py)\b", text)}
    assert {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in SOURCES)} == set()


@pytest.mark.parametrize(("name", "heading"), [("request", "## 4. On the wire"), ("reply", "## 7. And back")])
def test_the_life_of_a_frame_shows_the_captured_bytes(name: str, heading: str) -> None:
    """The tables of docs/life-of-a-frame.md are the captures of tests/vectors, none left out, each where it says."""
    page = (ROOT / "docs" / "life-of-a-frame.md").read_text()
    section = page.partition(heading)[2].partition("\n## ")[0]
    shown = b""
    for at, digits, times in re.findall(
        r"^\| (?:(\d+) \| )?`((?:[0-9a-f]{2} ?)+)`(?: . (\d+))? \|", section, re.MULTILINE
    ):
        assert at in {"", str(len(shown))}, digits
        shown += bytes.fromhex(digits) * int(times or 1)
    assert shown == bytes.fromhex((ROOT / "tests" / "vectors" / f"walkthrough-{name}.hex").read_text())


def test_readme_examples_join_two_nodes() -> None:
    """The two YAML files of the README load, and each is the other's peer."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    first, second = (parse(block) for block in blocks if "registry:" in block)
    for here, there in ((first, second), (second, first)):
        (lease,) = here.peers
        assert (lease.subnet,) == there.own_subnets
        assert lease.vtep.address == there.underlay.address
        assert lease.vtep.mac == there.overlay.mac


def test_every_stage_of_the_start_is_documented() -> None:
    """docs/operations.md says what to do about each that `/readyz` may name."""
    stages = re.findall(r'\.enter_stage\("(.+?)"\)', (ROOT / "vxland" / "node" / "daemon.py").read_text())
    page = (ROOT / "docs" / "operations.md").read_text()
    assert len(stages) > 4
    assert [stage for stage in stages if f"`{stage}`" not in page] == []


def test_every_drop_reason_is_documented() -> None:
    """docs/drops.md is what docs/generate.py makes of inspect/reasons.py; run `make docs` after changing that."""
    assert set(REASONS) == {drop.label for drop in Drop}
    page = (ROOT / "docs" / "drops.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "generate.py"))["drops"]() == page
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [*REASONS, *QUEUES]
