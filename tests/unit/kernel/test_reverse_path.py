"""The sysctl that makes reverse path filtering strict on an interface: the larger value of two counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vxland.kernel.reverse_path import strict_key


@pytest.mark.parametrize(
    ("every", "own", "strict"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, True), (1, 2, False), (2, 1, False), (0, 2, False)],
)
def test_strict(tmp_path: Path, every: int, own: int, strict: bool) -> None:
    """Loose, 2, on either side makes it loose; the key that sets the interface's is returned."""
    for name, value in (("all", every), ("flannel.1", own), ("default", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rp_filter").write_text(f"{value}\n")
    assert strict_key("flannel.1", tmp_path) == ("net.ipv4.conf.flannel/1.rp_filter" if strict else "")


def test_an_interface_that_does_not_exist_yet(tmp_path: Path) -> None:
    """It starts with the default; without the files nothing is strict."""
    assert strict_key("flannel.1", tmp_path) == ""
    for name, value in (("all", 0), ("default", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rp_filter").write_text(f"{value}\n")
    assert strict_key("flannel.1", tmp_path) == "net.ipv4.conf.default.rp_filter"
