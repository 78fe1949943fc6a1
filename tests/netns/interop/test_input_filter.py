"""`security.input_filter` of a vxland that is confined, and of one whose kernel has no room for the filter.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
                                  =====  further addresses of node b's e0, which forgers use
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from vxland.lab import shell

from .asking import ask_json
from .confinement import USER, confined_lab, held
from .conftest import running
from .injecting import (
    arrives,
    elements,
    everything_moves,
    further_addresses,
    listed,
    only_peers_arrive,
    refused,
    restart,
)
from .lab import PORT, Lab, wait_until
from .traffic import ping

pytestmark = pytest.mark.netns

STRANGER_V6, NEWCOMER_V6 = "fd00:111::131", "fd00:111::130"
OPTMEM = "core.optmem_max"


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def confined(request: pytest.FixtureRequest, place: Path, _able: None) -> Iterator[Lab]:
    """Node a's vxland becomes nobody behind a filter of system calls; two workers where the gear has more than one."""
    made = confined_lab(request.param, place)
    made.vxland.settings["datapath"] = {"workers": 2}
    yield from running(made)


@pytest.mark.parametrize("kind", ["nftables", "bpf"])
def test_it_works_without_roots_rights(confined: Lab, kind: str) -> None:
    """nft, as nobody with CAP_NET_ADMIN behind a seccomp filter, and SO_ATTACH_FILTER do all that they do for root.

    Also at the end, and with what a killed one has left.
    """
    vxland = confined.vxland
    further_addresses(confined)
    vxland.settings["security"]["input_filter"] = kind
    restart(vxland)
    fields = held(vxland.pid)
    assert (set(fields["Uid"].split()), fields["Seccomp"]) == ({str(USER.pw_uid)}, "2")
    only_peers_arrive(confined, kind)
    vxland.stop(signal.SIGKILL)
    assert bool(listed(confined)) == (kind == "nftables")
    vxland.start()
    wait_until(lambda: kind == "bpf" or elements(confined) == {confined.b.vtep}, "the filter's table")
    ping(confined.b.pod_ns, confined.a.pod[4])
    assert vxland.events("input_filter_failed") == []
    assert vxland.stop() == 0
    assert listed(confined) == ""
    del vxland.settings["security"]["input_filter"]
    vxland.start()
    assert arrives(confined, confined.b.vtep, count=7) == 7


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Over IPv6, where the filter of some hundred scattered sources is long."""
    made = Lab(tmp_path_factory.mktemp("wide"), request.param, underlay=6)
    made.vxland.settings["datapath"] = {"workers": 2}
    made.vxland.settings["security"]["input_filter"] = "bpf"
    yield from running(made)


@pytest.fixture
def lab(wide: Lab) -> Iterator[Lab]:
    """The same, with node b's further addresses; afterwards it has its one peer and the memory that it had."""
    for address in (STRANGER_V6, NEWCOMER_V6):
        wide.b.ns.ip(f"addr replace {address}/64 dev e0 nodad")
    peers = list(wide.vxland.peers)
    room = wide.a.ns.attempt("sysctl", "-n", f"net.{OPTMEM}")  # of kernels that have it for each namespace
    if room.returncode != 0:
        pytest.skip("net.core.optmem_max is the whole machine's")
    yield wide
    shell.set_sysctl(wide.a.ns.name, OPTMEM, int(room.stdout))
    wide.vxland.settings["registry"]["peers"] = peers
    restart(wide.vxland)


def crowd(count: int) -> list[dict[str, Any]]:
    """So many peers with 16 scattered sources each, the first of them with an address of node b."""
    rng = random.Random(8472)  # noqa: S311  (any numbers)
    return [
        {
            "subnet": [f"10.244.{100 + number}.0/24"],
            "vtep": NEWCOMER_V6 if number == 0 else f"fd00:111::1:{number}",
            "mac": f"02:00:00:00:01:{number:02x}",
            "sources": [str(IPv6Address(0x2001_0DB8 << 96 | rng.getrandbits(96))) for _ in range(16)],
        }
        for number in range(count)
    ]


def strangers_are_left_to_vxland(lab: Lab) -> None:
    """No filter keeps anybody out, vxland itself does; and peers arrive, new ones too."""
    before = refused(lab.vxland, "unknown_vtep")
    assert arrives(lab, STRANGER_V6, count=7) == 0
    wait_until(lambda: refused(lab.vxland, "unknown_vtep") == before + 7, "strangers are refused", lab.vxland.said)
    assert arrives(lab, NEWCOMER_V6, count=7) == 7
    everything_moves(lab)


def strangers_are_filtered(lab: Lab) -> None:
    """They do not get to vxland."""
    before = refused(lab.vxland, "unknown_vtep")
    assert arrives(lab, STRANGER_V6, count=7) == 0
    assert refused(lab.vxland, "unknown_vtep") == before


def error(lab: Lab) -> str:
    """What status says of the filter."""
    return str(ask_json(lab.vxland, "status")["planes"][0]["input_filter"]["error"])


@pytest.mark.parametrize("short_of", ["instructions", "memory"])
def test_more_than_the_kernel_takes(lab: Lab, short_of: str) -> None:
    """Too many sources, or too little memory: told once, and frames move without it; it is back once it fits."""
    peers, many = list(lab.vxland.peers), crowd(60 if short_of == "instructions" else 20)
    count = 1 + 17 * len(many)
    why = {
        "instructions": f"{count} sources do not fit into the 4096 instructions of a socket filter",
        "memory": f"the kernel refuses a filter for {count} sources: Cannot allocate memory",
    }[short_of]
    strangers_are_filtered(lab)
    if short_of == "memory":
        shell.set_sysctl(lab.a.ns.name, OPTMEM, 4096)
    lab.vxland.settings["registry"]["peers"] = peers + many
    lab.vxland.reload()
    assert error(lab) == why
    (event,) = lab.vxland.events("input_filter_failed")
    assert event["error"] == why
    assert "net.core.optmem_max" in event["remedy"]
    strangers_are_left_to_vxland(lab)
    many[1]["sources"] = []
    lab.vxland.reload()
    assert len(lab.vxland.events("input_filter_failed")) == 1
    lab.vxland.settings["registry"]["peers"] = peers
    lab.vxland.reload()
    assert error(lab) == ""
    wait_until(
        lambda: len(lab.vxland.events("input_filter_set")) == 2, "the log tells that it is back", lab.vxland.said
    )
    strangers_are_filtered(lab)


def test_room_for_one_filter_is_enough(lab: Lab) -> None:
    """The kernel charges a socket for a new filter while it has the old one; where both have no room, that one goes."""
    peers, many = list(lab.vxland.peers), crowd(21)

    def known(count: int) -> None:
        lab.vxland.settings["registry"]["peers"] = peers + many[:count]
        lab.vxland.reload()
        assert error(lab) == ""
        strangers_are_filtered(lab)
        assert arrives(lab, NEWCOMER_V6, count=7) == 7

    known(20)
    memory = re.findall(r"skmem:\(.*?,o(\d+),", lab.a.ns.run("ss", "-Hluanm", "sport", "=", f":{PORT}"))
    shell.set_sysctl(lab.a.ns.name, OPTMEM, int(memory[0]) * 3 // 2)
    for count in (21, 20, 21):
        known(count)
    assert lab.vxland.events("input_filter_failed") == []
