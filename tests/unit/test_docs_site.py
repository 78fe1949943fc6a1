"""The site that mkdocs makes of docs/: it builds, shows what GitHub shows, and asks nothing of the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import markdown
import pytest
from markdown.extensions.toc import slugify
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#([^)]+)\)")
FETCHED = re.compile(r"""<(?:script|img|iframe|link(?! rel="canonical"))[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


class _Blocks(HTMLParser):
    """Counts the blocks of a page. Whether an item of a list holds a paragraph is a matter of spacing alone."""

    COUNTED = frozenset({"h1", "h2", "h3", "h4", "p", "ol", "ul", "li", "pre", "table", "tr", "td", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self._items = 0
        self.feed(html)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        """Count it."""
        if tag in self.COUNTED and not (tag == "p" and self._items):
            self.counts[tag] = self.counts.get(tag, 0) + 1
        self._items += tag == "li"

    def handle_endtag(self, tag: str) -> None:
        """Leave it."""
        self._items -= tag == "li"


@pytest.mark.parametrize("page", DOCS, ids=_name)
def test_the_site_shows_what_github_shows(page: Path) -> None:
    """Python-Markdown and CommonMark read lists differently unless they are written for both."""
    text = page.read_text(encoding="utf-8")
    site = _Blocks(markdown.markdown(text, extensions=["tables", "attr_list", "pymdownx.superfences"])).counts
    github = _Blocks(MarkdownIt("commonmark").enable("table").render(text)).counts
    assert site == github, (
        f"{_name(page)}: blocks of the site, and of GitHub, differ: put a blank line before each list, start its items "
        "with '1.  ' or '-   ', indent what belongs to them by 4 spaces, code in them by 8"
    )


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *DOCS], ids=_name)
def test_anchors_are_there(page: Path) -> None:
    """A link to a heading finds it: on the site, which checks its own, and from README and CHANGELOG."""
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        headings = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.MULTILINE)
        assert anchor in {slugify(re.sub("[`*]", "", each), "-") for each in headings}, f"{target}#{anchor}"


def _build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run mkdocs on the pages below `root`, as the Makefile calls it."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow(reason="builds the site, as `make lint` does")
def test_it_builds_and_fetches_nothing(tmp_path: Path) -> None:
    """No dead link, no page that is missing in mkdocs.yml; no script, style, font or picture of another host."""
    built = _build(ROOT, tmp_path)
    assert built.returncode == 0, f"mend this, or add the page to `nav` in mkdocs.yml:\n{built.stderr}"
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(DOCS)  # and a 404
    assert {page.name: found for page in pages if (found := FETCHED.findall(page.read_text("utf-8")))} == {}
    styles = [style.read_text("utf-8") for style in tmp_path.rglob("*.css")]
    assert styles
    assert not any(re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style) for style in styles)


@pytest.mark.slow(reason="builds the site")
@pytest.mark.parametrize(
    ("page", "text"),
    [("stray.md", "# In no nav\n"), ("index.md", "[nothing](none.md)\n"), ("index.md", "[nothing](drops.md#none)\n")],
)
def test_it_does_not_build_with_a_fault(tmp_path: Path, page: str, text: str) -> None:
    """Each kind of fault is found, and the page named: mkdocs's options say so, and `--quiet` would undo them."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs" / page).write_text(text)
    built = _build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert page in built.stderr
