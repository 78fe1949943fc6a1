"""configs/ and docs/configuration.md keep up with the settings' models."""

from __future__ import annotations

import re
import runpy
from ipaddress import ip_address
from pathlib import Path

import pytest

from vxland.config import PeerSettings, Settings, load
from vxland.model.lease import Lease, Mac, Vtep

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def sections() -> dict[str, set[str]]:
    """Each section's keys; a peer's count as the registry's."""
    keys = {name: set(type(getattr(Settings(), name)).model_fields) for name in Settings.model_fields}
    return {**keys, "registry": keys["registry"] | set(PeerSettings.model_fields)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    """An example that vxland refuses is worse than none."""
    load(path)


def test_the_two_examples_join_two_machines() -> None:
    """Each file describes its own node as the other describes its peer."""
    one, two = (load(ROOT / "configs" / name) for name in ("vxland.yaml", "node2.yaml"))
    for here, there in ((one, two), (two, one)):
        assert here.underlay.address is not None
        assert here.overlay.mac is not None
        vtep = Vtep(here.underlay.address, here.overlay.mac)
        assert there.peers == {Lease(subnet, vtep) for subnet in here.own_subnets}
    assert (one.networks, one.overlay.vni, one.overlay.port) == (two.networks, two.overlay.vni, two.overlay.port)


def test_the_examples_are_the_walk_throughs() -> None:
    """The addresses and MACs are those of the article that the demo replays."""
    one, two = (load(ROOT / "configs" / name) for name in ("vxland.yaml", "node2.yaml"))
    assert (one.underlay.interface, one.device, one.overlay_mtu(1500, 4)) == (("ens33",), "flannel.1", 1450)
    assert (one.underlay.address, one.overlay.mac) == (ip_address("192.168.111.128"), Mac.parse("ce:5f:f6:73:cf:b9"))
    assert (two.underlay.address, two.overlay.mac) == (ip_address("192.168.111.129"), Mac.parse("3a:87:cf:81:6a:ce"))


def test_the_reference_example_has_every_key() -> None:
    """A setting that configs/vxland.yaml does not show is one that nobody finds."""
    lines = (ROOT / "configs" / "vxland.yaml").read_text().splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        if top := re.match(r"(\w+):", line):
            found[top[1]] = set()
        elif key := re.match(r"\s+(?:# |- )?(\w+):(?: |$)", line):
            found[list(found)[-1]].add(key[1])
    assert {name: keys - sections()[name] for name, keys in found.items()} == {name: set() for name in sections()}
    assert found == sections()


def test_the_reference_example_shows_the_defaults() -> None:
    """Beyond this node's own addresses, it sets each key to its default."""
    shown, default = load(ROOT / "configs" / "vxland.yaml"), Settings()
    assert (shown.overlay.vni, shown.overlay.port, shown.overlay.mtu) == (1, 8472, None)
    assert shown.overlay.device == default.device
    assert shown.underlay.source_ports == default.underlay.source_ports
    assert (shown.security, shown.control, shown.metrics) == (default.security, default.control, default.metrics)
    assert shown.datapath == default.datapath


def test_the_fast_path_is_on_by_default() -> None:
    """It was off: each frame woke the daemon, and a restart stopped the network."""
    assert Settings().datapath.fast_path == "auto"


def test_the_reference_page_is_up_to_date() -> None:
    """docs/configuration.md is what docs/generate.py makes of the models; run it after changing them."""
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["text"]()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page


def test_the_completion_scripts_are_up_to_date() -> None:
    """docs/completion/ is what click makes for both programs; run docs/generate.py after click changed it."""
    scripts = runpy.run_path(str(ROOT / "docs" / "generate.py"))["completion"]()
    folder = ROOT / "docs" / "completion"
    assert {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()} == scripts


def test_the_manual_pages_are_up_to_date() -> None:
    """docs/man/ is what docs/generate.py makes of the models and the commands' help; run it after changing them."""
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["man_pages"]()
    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "man").iterdir()} == pages
