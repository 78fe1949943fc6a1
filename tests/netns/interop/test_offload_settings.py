"""Offloads that are switched off, requested, or refused by the kernel, and their effect on pods' raw sockets.

        node a: vxland                           node b: vxland
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b         (lab.py has the addresses)

Node b is the one under test: what it writes to its TAP reaches the device of its pod. With the fast path over veth,
programs send superframes whole, as a kernel device does, and node b writes them whole; over a wire of MTU-sized packets
the daemon sends trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.refusing import WRITEV, launcher
from tests.web import get

from .asking import METRICS, ask_json
from .conftest import running
from .lab import FAMILIES, DataPath, Family, Lab, Vxland
from .ns import wait_until
from .offloads import captured
from .traffic import no_checksum_errors, send_tcp, send_udp_train
from .wires import Wire

pytestmark = pytest.mark.netns

NAMES = ["tso", "uso", "udp_segment", "udp_gro", "join_tcp", "join_udp"]
LABS: list[tuple[DataPath, Wire]] = [("compiled", "veth"), ("fast-path", "veth"), ("fast-path", "mtu-sized")]
both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])


class Refusing:
    """Starts a daemon whose kernel refuses superframes: writes to the TAP of 3 or more segments."""

    kept: list[tuple[str, int]] = []  # noqa: RUF012  (as in the service manager; it stores nothing)

    def launcher(self) -> tuple[str, ...]:
        """Return the words before the daemon's command line."""
        return launcher(4, 1024)

    def environment(self) -> dict[str, str]:
        """Return no additional environment."""
        return {}


def receiver(lab: Lab) -> Vxland:
    """Return the daemon of node b."""
    assert lab.other is not None
    return lab.other


def started(directory: Path, data_path: DataPath, offloads: object = None, wire: Wire = "veth") -> Iterator[Lab]:
    """Two compiled nodes; node b has this setting, if any."""
    lab = Lab(directory, data_path, data_path)
    lab.wire = wire
    if offloads is not None:
        receiver(lab).settings["datapath"] |= {"offloads": offloads}
    yield from running(lab)


@pytest.fixture(scope="module", params=LABS, ids="-".join)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Nodes with default offloads."""
    data_path, wire = request.param
    yield from started(tmp_path_factory.mktemp("plain"), data_path, wire=wire)


def plane(vxland: Vxland) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return the device's part of `vxlandctl status`."""
    return ask_json(vxland, "status")["planes"][0]


def udp_at_the_pod(lab: Lab, family: Family) -> list[bytes]:
    """Return what a packet socket of pod b sees of 300 datagrams of 1,000 bytes, which pod a sends as QUIC does."""
    with captured(lab.b.pod_ns, "eth0") as frames:
        for _ in range(6):
            send_udp_train(lab.a.pod_ns, lab.a.pod[family], lab.b.pod_ns, lab.b.pod[family], 1000, 50)
        return [frame for frame in frames() if len(frame) > 900]


@both_families
def test_a_packet_socket_sees_datagrams_as_they_were_sent(plain: Lab, family: Family) -> None:
    """300 datagrams reached raw sockets (intrusion detection, udp2raw, packet counters) as 5 of up to 64,042 bytes.

    What a program sends is whole on arrival, as between kernel devices on one host.
    """
    headers = 14 + (20 if family == 4 else 40) + 8
    whole = plain.vxland.has_fast_path and plain.wire == "veth"
    wanted = [headers + 50_500] * 6 if whole else [headers + 1000] * 300
    assert [len(frame) for frame in udp_at_the_pod(plain, family)] == wanted


def test_no_offload_is_reported_off_by_default(plain: Lab) -> None:
    """Joining UDP is optional: it is not in use, and not reported as a fault."""
    status = plane(receiver(plain))
    assert list(status["offloads"]) == NAMES
    assert (status["offloads"]["join_tcp"], status["offloads"]["join_udp"], status["offloads_off"]) == (True, False, {})


@both_families
def test_tcp_is_joined_by_default(plain: Lab, family: Family) -> None:
    """As the kernel's GRO does behind a vxlan device."""
    with captured(plain.b.pod_ns, "eth0") as frames:
        send_tcp(plain.a.pod_ns, plain.b.pod_ns, plain.b.pod[family], 3_000_000)
        assert max(map(len, frames())) > 10 * plain.b.mtu


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize(("data_path", "wanted"), [("compiled", "on"), ("fast-path", True)])
def test_udp_is_joined_on_request(tmp_path: Path, data_path: DataPath, wanted: object) -> None:
    """The 300 datagrams are then few packets."""
    for lab in started(tmp_path, data_path, {"join_udp": wanted}, "mtu-sized"):
        assert len(udp_at_the_pod(lab, 4)) < 100
        assert plane(receiver(lab))["offloads"]["join_udp"] is True


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize("data_path", ["compiled", "fast-path"])
def test_all_offloads_can_be_switched_off(tmp_path: Path, data_path: DataPath) -> None:
    """Traffic passes, nothing longer than a packet is written to the TAP or sent, and status has the reason."""
    for lab in started(tmp_path, data_path, "off"):
        status = plane(receiver(lab))
        assert status["offloads_off"] == dict.fromkeys(NAMES, "datapath.offloads has it off")
        assert {name: int(got) for name, got in status["offloads"].items()} == {
            name: int(name == "udp_segment") for name in NAMES
        }
        with captured(lab.b.pod_ns, "eth0") as frames, captured(lab.a.ns, "e0") as datagrams:
            for family in FAMILIES:
                with no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns):
                    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 1_000_000)
                    send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[family], 1_000_000)
                    send_udp_train(lab.b.pod_ns, lab.b.pod[family], lab.a.pod_ns, lab.a.pod[family], 1200, 40)
            assert max(map(len, frames())) <= 14 + lab.b.mtu
            assert max(map(len, datagrams())) <= 14 + lab.b.mtu + 50


@pytest.mark.usefixtures("_able")
def test_one_offload_can_be_switched_off(tmp_path: Path) -> None:
    """The others stay; a reload that changes it reports that it needs a restart."""
    for lab in started(tmp_path, "compiled", {"udp_gro": False}):
        assert plane(receiver(lab))["offloads_off"] == {"udp_gro": "datapath.offloads has it off"}
        send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 1_000_000)
        receiver(lab).settings["datapath"] |= {"offloads": {"udp_segment": "off"}}
        receiver(lab).write()
        (refused,) = receiver(lab).hang_up("reload_refused")
        assert (refused["key"], refused["value"]) == ("datapath.offloads", "{udp_segment: off}")


@pytest.mark.usefixtures("_able")
@pytest.mark.skipif(WRITEV is None, reason="the number of writev(2) is not known for this machine")
@pytest.mark.parametrize(("data_path", "family"), [("compiled", 4), ("fast-path", 6)])
def test_a_kernel_that_refuses_superframes(tmp_path: Path, data_path: DataPath, family: Family) -> None:
    """Kernels 6.1.103 and 6.6.44: every run was lost, and TCP with it. Now one is tried, and this is reported.

    A program would pass on a superframe, which is one range of bytes: here all arrive as trains.
    """
    lab = Lab(tmp_path, data_path, data_path)
    lab.wire = "mtu-sized"
    receiver(lab).manager = Refusing()
    receiver(lab).settings["metrics"] = {"listen": METRICS}
    for _ in running(lab):
        with captured(lab.b.pod_ns, "eth0") as frames, no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns):
            send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 4_000_000)
            wait_until(lambda: receiver(lab).events("offload_off"), "the log reports it", receiver(lab).said)
            send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 4_000_000)
            assert max(map(len, frames())) <= 2 * lab.b.mtu + 14
        (event,) = receiver(lab).events("offload_off")
        assert (event["offload"], event["error"]) == ("join_tcp", "Invalid argument")
        assert plane(receiver(lab))["offloads_off"] == {"join_tcp": "the kernel refused it: Invalid argument"}
        _, metrics = lab.b.ns.inside(lambda: get(f"http://{METRICS}/metrics"))
        assert 'vxland_offload{device="flannel.1",offload="join_tcp"} 0.0' in metrics
        assert ask_json(receiver(lab), "stats")["decap"]["drops"]["tap_write_failed"] == 0
