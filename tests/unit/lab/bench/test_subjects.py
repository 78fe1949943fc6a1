"""Subjects of the benchmark, and what each requires of the machine."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vxland.lab import shell
from vxland.lab.bench import ovs, resources, subjects
from vxland.lab.bench.subjects import BASELINE, SUBJECTS
from vxland.lab.bench.summary import BUSY_POLL, COMPILED, INTERPRETED, NO_TUNNEL, OVS, TARGETS
from vxland.lab.commands import bench
from vxland.lab.host import describe


def test_the_command_line_knows_every_subject() -> None:
    """commands.py names them itself, so that --help loads nothing."""
    (option,) = (param for param in bench.params if param.name == "subjects")
    assert isinstance(option.type, click.Choice)
    assert sorted(option.type.choices) == sorted(subject.name for subject in SUBJECTS)


def test_targets_compare_existing_subjects() -> None:
    """Every target names subjects that exist."""
    names = {subject.name for subject in SUBJECTS}
    assert {BASELINE, COMPILED, BUSY_POLL, INTERPRETED, NO_TUNNEL, OVS} <= names
    assert {name for target in TARGETS for name in (target.of, target.to) if name} <= names


def test_open_vswitch_need_not_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its programs or its schema it is skipped, with the reason."""
    monkeypatch.setattr("shutil.which", lambda _program: None)
    assert "openvswitch-switch" in ovs.missing()
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/sbin/{program}")
    monkeypatch.setenv("OVS_PKGDATADIR", str(tmp_path))
    assert "vswitch.ovsschema is missing" in ovs.missing()
    (tmp_path / "vswitch.ovsschema").touch()
    assert not ovs.missing()


def test_machine() -> None:
    """CPU time only grows, this process has memory, and the description has what a reader needs first."""
    before = resources.busy_s()
    assert resources.busy_s() >= before > 0
    assert resources.rss_mib([]) == 0
    assert {"kernel", "cpu", "cpus", "python", "load_average"} == set(describe())


def test_compiled_means_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without extension modules, no interpreted daemon is measured as compiled."""
    package = tmp_path / "vxland"
    (package / "lab" / "bench").mkdir(parents=True)
    (package / "forwarding").mkdir()
    monkeypatch.setattr(subjects, "__file__", str(package / "lab" / "bench" / "subjects.py"))
    monkeypatch.setattr(shell, "TUN", tmp_path)
    (compiled,) = (subject for subject in SUBJECTS if subject.name == COMPILED)
    assert "not compiled" in compiled.missing()
    (package / "forwarding" / "pump.cpython-311-x86_64-linux-gnu.so").touch()
    assert not compiled.missing()
