"""tools/scale.py: the figures of `vxland bench --leases` in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import scale
from vxland.lab.bench.cost_report import as_json
from vxland.lab.bench.costs import Costs, Result, Storm, Work

MACHINE = {"date": "2026-12-01", "kernel": "6", "cpus": 2, "cpu": "x", "python": "3.11", "load_average": 0.5}
HELD = {"start": 4.0, "changes": 4.0, "storm": 4.0}
PAGE = "before\n<!-- {0} -->\nold\n<!-- end -->\nbetween\n<!-- {1} -->\n<!-- end -->\nafter\n"


def costs(leases: int, mib: float, beat_bytes: float | None = None) -> Costs:
    """Return a size with this memory."""
    work = Work(1.0, 2.0, 0.0, 0.0, 500.0)
    storm = Storm(changes=5000, rate=500.0, cpu_percent=31.0, caught_up_s=0.4)
    ms, beat = [10.0, 20.0], None if beat_bytes is None else 2.0
    made = (leases, 1.0, 1.0, leases * 400, 9, 0.1, 0.0, mib, ms, 3.0, work, beat, beat_bytes, storm, mib, HELD)
    return Costs(*made)


ETCD = Result("etcd", 40.0, [costs(1000, 41.0), costs(5000, 45.0), costs(20_000, 60.0)])
KUBE = Result("kube", 40.0, [costs(1000, 41.0, 13_000.0)])


def test_what_follows_for_larger_clusters() -> None:
    """Memory follows the line through the sizes; what kubelets write grows with the square of the nodes."""
    rows = {title: cells for title, *cells in scale.model(ETCD, KUBE)}
    assert rows["nodes"] == ["5,000", "20,000", "100,000"]
    assert rows["memory of vxland, MiB"] == ["45", "60", "140"]
    assert rows["list at the start, MB"] == ["2", "8", "40"]
    assert rows["sent for writes of kubelets, GB/s"] == ["1.1", "17.3", "433.3"]
    assert all(len(cells) == 3 for cells in rows.values())


def test_pages_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table stands at its place, once more after a second run; a page without the place is an error."""
    monkeypatch.setattr(scale, "DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "performance.md").write_text(PAGE.format("leases-etcd", "leases-kube"))
    (tmp_path / "scale.md").write_text(PAGE.format("scale", "other"))
    words = ["scale.py"]
    for result in (ETCD, KUBE):
        path = tmp_path / f"{result.store}.json"
        path.write_text(json.dumps(as_json(result, MACHINE)))
        words.append(str(path))
    monkeypatch.setattr("sys.argv", words)
    scale.main()
    once = (tmp_path / "performance.md").read_text()
    scale.main()
    assert (tmp_path / "performance.md").read_text() == once
    assert "old" not in once
    assert once.count("2026-12-01") == 2
    assert once.index("| leases in etcd | 1,000 |") < once.index("between") < once.index("| leases in kube | 1,000 |")
    assert "| memory of vxland, MiB | 45 | 60 | 140 |" in (tmp_path / "scale.md").read_text()
    assert (tmp_path / "images" / "scale.png").stat().st_size > 10_000
    (tmp_path / "scale.md").write_text("nothing")
    with pytest.raises(SystemExit, match="has no place <!-- scale -->"):
        scale.main()
