"""The shipped systemd units; tests/systemd boots them."""

from __future__ import annotations

import re
from pathlib import Path

from vxland.config import Settings

UNITS = Path(__file__).parents[2] / "systemd"
MOST_WORKERS, MOST_SOURCE_PORTS, DEVICES = 16, 64, 2


def lines(name: str) -> list[str]:
    """The settings of a unit, without its comments."""
    return [line for line in (UNITS / name).read_text().splitlines() if not line.startswith("#")]


def test_instances_are_like_the_one() -> None:
    """vxland@.service is vxland.service but for the names of files and folders."""
    assert "StateDirectory=vxland-%i" in lines("vxland@.service")
    common = [
        line.replace(" --subnet-file /run/vxland-%i/subnet.env", "")
        .replace(" (%i)", "")
        .replace("%i.yaml", "vxland.yaml")
        .replace("-%i", "")
        for line in lines("vxland@.service")
    ]
    assert common == [line.replace("=vxland flannel", "=vxland") for line in lines("vxland.service")]


def test_the_store_holds_what_settings_allow() -> None:
    """As many descriptors as the most workers and source ports of two devices make."""
    for setting, most in (("workers", MOST_WORKERS), ("source_ports", MOST_SOURCE_PORTS)):
        section = {"workers": "datapath", "source_ports": "underlay"}[setting]
        Settings.model_validate({section: {setting: most}})
    found = re.search(r"^FileDescriptorStoreMax=(\d+)$", "\n".join(lines("vxland.service")), re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= DEVICES * (2 * MOST_WORKERS + MOST_SOURCE_PORTS)
