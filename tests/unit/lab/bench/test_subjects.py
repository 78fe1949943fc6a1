"""Subjects of the benchmark, and what each requires of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from vxland.lab import shell
from vxland.lab.bench import ovs, resources, subjects, wires
from vxland.lab.bench.rounds import SCALE
from vxland.lab.bench.subjects import SUBJECTS
from vxland.lab.bench.summary import MEASURES, ONCE, TARGETS, VXLAND
from vxland.lab.bench.trial import JOBS
from vxland.lab.commands import bench
from vxland.lab.host import describe


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("subjects", [subject.name for subject in SUBJECTS]),
        ("measures", [*JOBS, SCALE]),
        ("wires", list(wires.TITLES)),
    ],
)
def test_the_command_line_knows_every_name(option: str, names: list[str]) -> None:
    """commands.py names them itself, so that --help loads nothing; the help text describes each."""
    (found,) = (param for param in bench.params if param.name == option)
    assert isinstance(found.type, click.Choice)
    assert sorted(found.type.choices) == sorted(names)
    assert bench.help
    assert all(re.search(rf"^ *(\S+, )*{name}\b", bench.help, re.MULTILINE) for name in names)


def test_targets_compare_what_is_measured() -> None:
    """Every target names a measure, and subjects and wires that exist."""
    names, keys = {subject.name for subject in SUBJECTS}, {measure.key for measure in MEASURES}
    compared = [target for target in TARGETS if target.wire != ONCE]
    assert {name for target in compared for name in (target.of, target.to) if name} <= names
    assert {target.measure for target in compared} <= keys
    assert {target.wire for target in compared} == set(wires.TITLES)


def test_every_number_has_a_measure_that_makes_it() -> None:
    """A number's key begins with the name of its measure; memory needs none."""
    assert {measure.key.partition("_")[0] for measure in MEASURES} == {*JOBS, "rss"}


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
    (compiled,) = (subject for subject in SUBJECTS if subject.name == VXLAND)
    assert "not compiled" in compiled.missing()
    (package / "forwarding" / "pump.cpython-311-x86_64-linux-gnu.so").touch()
    assert not compiled.missing()
