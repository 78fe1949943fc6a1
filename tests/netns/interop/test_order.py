"""Order of packets with the fast path: whichever side carries them, none overtakes another one of its flow.

        node a: vxland                             node b: the kernel's vxlan, or vxland
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b              (lab.py has the addresses)

Programs carry single packets, and superframes where the wire takes them; the daemon has the rest. ordered.py says what
is sent: 64 flows each way, in which single datagrams, trains and fragments follow each other at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from .asking import ask_json
from .capturing import capturing
from .conftest import running
from .lab import Family, Kind, Lab
from .ordered import FINE, FRAGMENTED, PLAIN, Sequence
from .wires import Wire

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("_able")]

NODE_C = {"subnet": ["10.244.2.0/24"], "vtep": "192.168.111.130", "mac": "02:00:00:00:00:0c"}
LABS: list[tuple[Kind, Wire, Family]] = [
    ("kernel", "veth", 4),
    ("kernel", "mtu-sized", 6),
    ("compiled", "veth", 6),
    ("compiled", "mtu-sized", 4),
]


@pytest.fixture(params=LABS, ids=lambda param: f"{param[0]}-{param[1]}-ipv{param[2]}")
def kind(request: pytest.FixtureRequest) -> tuple[Kind, Wire, Family]:
    """Neighbour, wire and family of the packets."""
    chosen: tuple[Kind, Wire, Family] = request.param
    return chosen


@pytest.fixture
def lab(kind: tuple[Kind, Wire, Family], tmp_path: Path) -> Iterator[Lab]:
    """The lab, with the fast path.

    A kernel device behind a veth pair with GRO reorders by itself what two CPUs send to it: its gro_cells are per CPU.
    """
    made = Lab(tmp_path, "compiled", kind[0]).with_fast_path()
    made.wire = kind[1]
    for each in running(made):
        if kind[0] == "kernel":
            made.b.ns.run("ethtool", "-K", "e0", "gro", "off")
        yield each


@pytest.fixture
def sequences(lab: Lab, kind: tuple[Kind, Wire, Family]) -> Iterator[list[Sequence]]:
    """Datagrams both ways, each from a CPU of its own."""
    made = [Sequence(lab.a, lab.b, kind[2]), Sequence(lab.b, lab.a, kind[2])]
    with ExitStack() as stack:
        for each, cpu in zip(made, cycle(sorted(os.sched_getaffinity(0))), strict=False):
            stack.enter_context(each.running(cpu))
        yield made


def pass_on(sequences: list[Sequence], more: int = 2000) -> None:
    """Return once more datagrams have arrived both ways."""
    for each in sequences:
        each.wait(more)


def overtaken(sequences: list[Sequence]) -> dict[str, int]:
    """Return the late datagrams by direction, without fragments."""
    return {each.name: each.late[PLAIN] + each.late[FINE] for each in sequences}


def test_no_packet_overtakes_another(lab: Lab, sequences: list[Sequence], tmp_path: Path) -> None:
    """While both sides carry parts of a flow, and leases and captures come and go.

    One in 300 did so on a busy machine, where the daemon's threads wait for a CPU longer than a flow was held.
    """
    pass_on(sequences, 20_000)
    for peers in ([NODE_C], [], [NODE_C], []):
        lab.vxland.settings["registry"]["peers"] = [lab.vxland.peers[0], *peers]
        lab.vxland.reload()
        pass_on(sequences)
    for number in range(3):
        with capturing(lab, tmp_path / f"capture-{number}"):
            pass_on(sequences)
        pass_on(sequences, 4000)
    for each in sequences:
        assert overtaken(sequences)[each.name] < each.received[PLAIN] / 1000
        assert all(each.received[kind] for kind in (PLAIN, FINE, FRAGMENTED))
    stats = ask_json(lab.vxland, "stats")
    assert 0 < stats["fast_path"]["encap"]["frames"] < stats["encap"]["frames"]
    if lab.other is None:  # a vxland's trains have packets of all flows, so all of its flows are held
        assert 0 < stats["fast_path"]["decap"]["frames"] < stats["decap"]["frames"]


def test_a_restart_reorders_hardly_anything(lab: Lab, sequences: list[Sequence]) -> None:
    """A third came too late: the old programs carried single packets, and trains waited in the new process's sockets.

    The trains that come while the sockets are opened, some 10 ms, still do so.
    """
    pass_on(sequences)
    for number in (signal.SIGTERM, signal.SIGKILL):
        lab.vxland.stop(number)
        pass_on(sequences)
        lab.vxland.start()
        pass_on(sequences, 5000)
    for each in sequences:
        assert overtaken(sequences)[each.name] < each.received[PLAIN] / 50
