"""`security.input_filter` of a vxland without root's privileges.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
                                  =====  further addresses of node b's e0, which forgers use
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .confinement import USER, confined_lab, held
from .conftest import running
from .injecting import (
    C_VTEP,
    NODE_C,
    TABLE,
    arrives,
    elements,
    further_addresses,
    listed,
    only_peers_arrive,
    restart,
)
from .lab import Lab, Vxland
from .ns import wait_until
from .traffic import ping

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def confined(request: pytest.FixtureRequest, place: Path, packages: Path, _able: None) -> Iterator[Lab]:
    """Node a's vxland changes to nobody behind a system call filter; two workers if the gear has more than one."""
    made = confined_lab(request.param, place, packages)
    made.vxland.settings["datapath"] |= {"workers": 2}
    yield from running(made)


def test_it_works_without_roots_rights(confined: Lab) -> None:
    """The program nft works as nobody with CAP_NET_ADMIN, behind a seccomp filter, as it does for root.

    Also at the end, and with what a killed daemon left.
    """
    vxland = confined.vxland
    further_addresses(confined)
    vxland.settings["security"]["input_filter"] = "nftables"
    restart(vxland)
    fields = held(vxland.pid)
    assert (set(fields["Uid"].split()), fields["Seccomp"]) == ({str(USER.pw_uid)}, "2")
    only_peers_arrive(confined)
    vxland.stop(signal.SIGKILL)
    assert listed(confined) != ""
    vxland.start()
    wait_until(lambda: elements(confined) == {confined.b.vtep}, "the filter's table")
    ping(confined.b.pod_ns, confined.a.pod[4])
    assert vxland.events("input_filter_failed") == []
    assert vxland.stop() == 0
    assert listed(confined) == ""
    del vxland.settings["security"]["input_filter"]
    vxland.start()
    assert arrives(confined, confined.b.vtep, count=7) == 7


def test_prefixes_within_prefixes_come_and_go(confined: Lab) -> None:
    """The outermost are in the kernel. The table is never replaced for a change, although nft refuses overlaps."""
    vxland = confined.vxland
    vxland.settings["security"]["input_filter"] = "nftables"
    restart(vxland)
    wait_until(lambda: elements(confined) == {confined.b.vtep}, "the filter's table")

    def table() -> tuple[list[int], list[str]]:
        found = json.loads(confined.a.ns.run("nft", "-j", "list", "table", *TABLE))["nftables"]
        handles = [each["table"]["handle"] for each in found if "table" in each]
        sets = {each["set"]["name"]: each["set"].get("elem", []) for each in found if "set" in each}
        return handles, sorted(f"{each['prefix']['addr']}/{each['prefix']['len']}" for each in sets["prefixes"])

    handles, prefixes = table()
    assert prefixes == []
    within = ["198.51.100.0/26", "198.51.100.64/26", "198.51.100.64/28"]
    for sources in (within, [*within, "198.51.100.0/24"], ["198.51.100.0/24"], within, ["198.51.0.0/16", *within], []):
        vxland.peers[:] = [*others(vxland), NODE_C | {"sources": sources}]
        vxland.reload()
        outer = [each for each in sources if each.endswith(("/24", "/16"))] or within[: 2 * bool(sources)]
        wait_until(lambda: table() == (handles, sorted(outer)), str(sources), lambda: str(table()))  # noqa: B023
    vxland.peers[:] = others(vxland)
    vxland.reload()
    wait_until(lambda: elements(confined) == {confined.b.vtep}, "node c is kept out")
    assert vxland.events("input_filter_failed", "input_filter_repaired") == []


def others(vxland: Vxland) -> list[dict[str, Any]]:
    """Return the peers other than node c."""
    return [peer for peer in vxland.peers if peer["vtep"] != C_VTEP]
