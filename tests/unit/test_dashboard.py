"""The dashboard for Grafana, its provisioning, and the metrics it asks for; `make test-docker` runs its queries."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dashboard import DASHBOARD, panels, resolved

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
ROW = re.compile(r"^\| `(\w+)(?:\{(.*)\})?` \|", re.MULTILINE)
METRICS = {name: labels.split(",") for name, labels in ROW.findall((ROOT / "docs/metrics.md").read_text())}
COLUMNS = 24


def test_panels_are_distinct() -> None:
    """Each has a number and a title of its own, a description, a unit, and at least one query."""
    found = BOARD["panels"]
    assert len(found) > 10
    assert len({panel["id"] for panel in found}) == len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap() -> None:
    """They stay within the grid and beside each other."""
    places = [panel.grid for panel in panels(BOARD)]
    assert all(x >= 0 and x + w <= COLUMNS for x, _, w, _ in places)
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(places, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


def test_every_metric_and_label_exists() -> None:
    """Queries ask for what docs/metrics.md lists, which a real node is held to."""
    for panel in panels(BOARD):
        for query, legend in panel.queries:
            names = re.findall(r"\bvxland_\w+", query)
            assert names
            labels = {"instance"}.union(*(METRICS[name] for name in names))
            assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, query
            assert set(re.findall(r"(\w+)=~", query)) <= labels, query


def test_every_query_is_asked_of_the_variable() -> None:
    """One data source for all, which the provisioned one is the first choice for."""
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables["datasource"]["current"]["value"] in {source["uid"] for source in sources}
    for panel in BOARD["panels"]:
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_a_variable_that_nobody_defines() -> None:
    """It is refused, not asked for."""
    with pytest.raises(ValueError, match=r"\$cluster"):
        resolved('sum(vxland_ready{cluster="$cluster"})')


def test_compose_mounts_what_provisioning_names() -> None:
    """The provider's folder is where compose.yaml puts the dashboards; the image's own home page is this one."""
    grafana = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/vxland.yml").read_text())["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (home.parent, home.name) == (Path(provider["options"]["path"]), DASHBOARD.name)
    assert BOARD["schemaVersion"] >= 36
    assert BOARD["uid"]
