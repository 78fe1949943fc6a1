"""`datapath.offloads`: accepted values, remedies of refused ones, and changes that need a restart."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml

from vxland.config import parse
from vxland.model.errors import InvalidConfigError
from vxland.model.kernel_state import Offloads

NAMES = [each.name for each in fields(Offloads)]


def text(offloads: object) -> str:
    """Return the file of a node of a flannel cluster with this setting, which is YAML text."""
    written = offloads if isinstance(offloads, str) else yaml.safe_dump(offloads, default_flow_style=True).strip()
    return f"registry: {{kind: etcd}}\ndatapath:\n  offloads: {written}\n"


def offloads(written: object) -> Offloads:
    """Return the setting of such a file."""
    return parse(text(written)).datapath.offloads


def test_all_but_joined_udp_are_used_by_default() -> None:
    """join_udp is off by default: the kernel joins no forwarded UDP either."""
    default = parse("registry: {kind: etcd}").datapath.offloads
    assert default == offloads("auto") == offloads({}) == Offloads()
    assert [name for name in NAMES if default.wants(name)] == [name for name in NAMES if name != "join_udp"]
    assert not any(default.is_off(name) for name in NAMES)


@pytest.mark.parametrize("written", ["off", "'off'", "no", "false"])
def test_all_can_be_off(written: str) -> None:
    """YAML 1.1 reads a bare off as false."""
    found = offloads(written)
    assert all(found.is_off(name) and not found.wants(name) for name in NAMES)
    assert str(found) == "off"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("value", "use"), [("off", "off"), ("on", "on"), ("'on'", "on"), ("auto", "auto")])
def test_each_has_a_name(name: str, value: str, use: str) -> None:
    """Other offloads keep their default; the value is shown in a spelling that reads as the same value."""
    found = offloads(f"{{{name}: {value}}}")
    assert found == Offloads(**{name: use})  # type: ignore[arg-type]  # one of its three words
    assert found.wants(name) == (use == "on" or (use == "auto" and name != "join_udp"))
    assert found.is_off(name) == (use == "off")
    assert offloads(str(found)) == found


REFUSED = {
    "{udp_sgment: off}": "write udp_segment instead of udp_sgment",
    "{UDP_GRO: off}": "write udp_gro instead of UDP_GRO",
    "{gro: off}": "write udp_gro instead of gro",
    "{tso: maybe}": "tso: write auto, on or off",
    "{tso: 1}": "tso: write auto, on or off",
    "{tso: }": "tso: write auto, on or off",
    "{tso: [off]}": "tso: write auto, on or off",
    "{7: off}": "7: name one of tso, uso, udp_segment, udp_gro, join_tcp, join_udp",
    "on": "write auto, off, or a mapping such as {udp_segment: off, join_udp: on}",
    "[tso]": "write auto, off, or a mapping such as {udp_segment: off, join_udp: on}",
    "": "write auto, off, or a mapping such as {udp_segment: off, join_udp: on}",
}


@pytest.mark.parametrize("written", REFUSED)
def test_anything_else_is_refused_with_a_remedy(written: str) -> None:
    """The problem has the key and what to write instead."""
    with pytest.raises(InvalidConfigError) as caught:
        offloads(written)
    (problem,) = caught.value.problems
    assert (problem.key, problem.remedy) == ("datapath.offloads", REFUSED[written])


def test_a_change_takes_a_restart() -> None:
    """Both values are shown in the spelling of a file."""
    before, after = parse(text("auto")), parse(text({"udp_gro": False, "join_udp": True}))
    (problem,) = before.restart_needed(after)
    assert (problem.key, problem.value) == ("datapath.offloads", "{udp_gro: off, join_udp: on}")
    assert problem.remedy == "restart vxland to change it: it runs with auto"
