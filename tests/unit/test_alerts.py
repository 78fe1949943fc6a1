"""The alert rules speak of metrics and labels that docs/metrics.md lists, which a real node is held to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vxland.datapath.verdict import Drop

ROOT = Path(__file__).parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ROW = re.compile(r"^\| `(\w+)(?:\{(.*)\})?` \| \w+ \|", re.MULTILINE)
METRICS = {name: labels.split(",") for name, labels in ROW.findall((ROOT / "docs/metrics.md").read_text())}


def used(rule: dict[str, Any]) -> dict[str, str]:
    """The metrics of an expression, with what stands in braces behind them."""
    return dict(re.findall(r"\b(vxland_\w+|up)\b(\{[^}]*\})?", rule["expr"]))


def test_every_metric_exists() -> None:
    """Every rule asks for one at least, and none for a metric or a label that is not there."""
    for rule in RULES:
        assert used(rule), rule["alert"]
        for name, matchers in used(rule).items():
            labels = ["job"] if name == "up" else METRICS[name]
            assert {label for label, _ in re.findall(r'(\w+)(=~|!~|!=|=)"', matchers)} <= set(labels), rule["alert"]


def test_reasons_exist() -> None:
    """A drop's reason in an expression is one of the code's."""
    words = {drop.label for drop in Drop}
    named = [
        word
        for rule in RULES
        for _, text in re.findall(r'reason(=~|!~|!=|=)"([^"]*)"', rule["expr"])
        for word in text.split("|")
    ]
    assert named
    assert set(named) <= words


def test_rules_are_whole() -> None:
    """Each has a name of its own, a severity, and says what happens and what to look at."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
