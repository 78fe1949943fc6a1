""".pre-commit-config.yaml: the hooks make the checks of `make lint`, with programs of .venv and nothing fetched."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"$(MKDOCS)"}  # takes longer than a commit should


def _checks(line: str) -> set[str]:
    """The checks that one command makes: a program, and for ruff what it is to do."""
    return set(re.findall(r"\b(ruff \w+|mypy|lint-imports|cython-lint|tools/prose\.py)", line))


def test_the_hooks_are_those_of_make_lint() -> None:
    """A check that only `make lint` made would be found after the commit, in CI."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip() for line in recipe[1].splitlines() if line.strip() not in LEFT_OUT]
    assert [line for line in lines if not _checks(line)] == [], "a check without a hook: .pre-commit-config.yaml"
    wanted = set().union(*map(_checks, lines))
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooked = set().union(*(_checks(hook["entry"]) for hook in repository["hooks"]))
    assert wanted - hooked == set()
    assert all(".venv/bin" in hook["entry"] for hook in repository["hooks"])
