"""Telemetry of a running node: metrics, the last drops, captures; over its TCP port and control socket.

pod 10.244.0.19 -- a: vxland -- 192.168.111.0/24 -- b: the kernel's vxlan -- pod 10.244.1.19
"""

from __future__ import annotations

import json
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

from tests.patience import PATIENCE_S

from .asking import METRICS, ask_json, page
from .capturing import capturing, ctl
from .conftest import running
from .daemon import ROOT
from .lab import PORT, Lab
from .ns import wait_until
from .traffic import ping, send_tcp

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with metrics, node b the kernel's vxlan."""
    made = Lab(tmp_path_factory.mktemp("lab"), request.param)
    made.vxland.settings["metrics"]["listen"] = METRICS
    yield from running(made)


def metrics(lab: Lab) -> dict[tuple[str, ...], float]:
    """Return every sample: name and label values, in the order of the labels' names -> value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page(lab, "/metrics"))
        for sample in family.samples
    }


def test_every_metric_is_documented(lab: Lab) -> None:
    """docs/metrics.md has a row for each family that a real node exposes, with its type, and no other."""
    ping(lab.a.pod_ns, lab.b.pod[4])
    text = page(lab, "/metrics")
    found = {(family.name, family.type) for family in text_string_to_metric_families(text)}
    documented = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+?)(?:_total)?(?:\{.*\})?` \| (\w+) \|", documented, re.MULTILINE)
    assert set(rows) == found


def test_traffic_is_counted_by_peer(lab: Lab) -> None:
    """One peer's traffic is all of each direction, and grows with a ping by its frames. Programs wake nothing up."""
    before = metrics(lab)
    ping(lab.a.pod_ns, lab.b.pod[4])
    keys = {way: ("vxland_peer_frames_total", "flannel.1", way, lab.b.vtep) for way in ("encap", "decap")}

    def counted() -> dict[tuple[str, ...], float]:
        """A frame may arrive a moment before it is counted."""
        now = metrics(lab)
        whole = all(now[key] == now["vxland_frames_total", way] >= before[key] + 3 for way, key in keys.items())
        return now if whole else {}

    after = wait_until(counted, "three frames each way")
    for way in keys:
        assert after["vxland_batches_total", way] <= after["vxland_frames_total", way]
        by_programs = after["vxland_fast_path_frames_total", way] - before["vxland_fast_path_frames_total", way]
        assert after["vxland_wakeups_total", way] > before["vxland_wakeups_total", way] or by_programs >= 3
    assert after["vxland_socket_queue_limit_bytes", "flannel.1", "0"] > 0
    assert after["vxland_tap_dropped_total", "flannel.1"] == 0
    assert after["vxland_ready",] == 1


def test_the_last_drops_are_listed(lab: Lab) -> None:
    """A datagram of another VNI and a packet without a lease: with reason, peer and addresses."""
    with lab.b.ns.socket(lab.b.underlay[4]) as unknown:
        unknown.sendto(bytes([8, 0, 0, 0, 0, 0, 9, 0]) + bytes(60), (lab.a.underlay[4], PORT))
    with lab.a.ns.socket(lab.a.base[4]) as sender:
        lab.a.ns.ip("route replace 10.244.77.0/24 via 10.244.1.0 dev flannel.1 onlink")
        lab.a.ns.ip("neigh replace 10.244.1.0 lladdr 02:00:00:00:00:77 dev flannel.1 nud permanent")
        sender.sendto(b"nobody", ("10.244.77.7", 7))

    def listed() -> dict[str, Any]:
        return {drop["reason"]: drop for drop in ask_json(lab.vxland, "drops")}

    wait_until(lambda: listed().keys() >= {"wrong_vni", "no_vtep"}, "both drops are listed")
    found = listed()
    assert (found["wrong_vni"]["direction"], found["wrong_vni"]["outer"]) == ("decap", lab.b.underlay[4])
    assert (found["no_vtep"]["direction"], found["no_vtep"]["dst"], found["no_vtep"]["dport"]) == (
        "encap",
        "10.244.77.7",
        7,
    )


def test_a_capture_is_a_pcapng_file(lab: Lab, tmp_path: Path) -> None:
    """Inner frames of both directions, filtered, with interface, direction, time and verdict; tcpdump reads it."""
    path = tmp_path / "inner.pcapng"
    with capturing(lab, path, "icmp and host", lab.b.pod[4]) as capture:
        ping(lab.a.pod_ns, lab.b.pod[4])
        send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 1000)
        wait_until(lambda: path.read_bytes().count(b"forwarded") == 6, "six packets")
    assert re.fullmatch(r"6 captured, \d+ filtered out, 0 lost\n", capture.summary)
    packets = capture.packets()
    assert [(packet[IP].dst, packet[ICMP].type) for packet in packets] == [
        (lab.b.pod[4], 8),
        (lab.a.pod[4], 0),
    ] * 3
    assert [packet.comment for packet in packets[:2]] == [
        f"encap to {lab.b.vtep}, forwarded".encode(),
        f"decap from {lab.b.vtep}, forwarded".encode(),
    ]
    assert {packet.sniffed_on for packet in packets} == {"flannel.1"}
    assert [packet.direction for packet in packets[:2]] == [2, 1]
    done = subprocess.run(["tcpdump", "-nr", str(path)], check=True, capture_output=True, text=True)
    assert done.stdout.count("ICMP echo request") == 3


TSHARK_OUTER = (
    f"tshark -nr - -d udp.port=={PORT},vxlan -o udp.check_checksum:TRUE -T fields -e frame.protocols -e vxlan.vni "
    "-e udp.checksum.status -e frame.comment"
)


@pytest.mark.parametrize(
    ("which", "reader", "line"),
    [
        ("--inner", "tcpdump -nr -", r"IP 10\.244\.0\.19 > 10\.244\.1\.19: ICMP echo request"),
        ("--outer", "tcpdump -nr -", r"\.8472: OTV, flags \[I\] \(0x08\), overlay 0, instance 1"),
        ("--inner", "tshark -nr -", r"10\.244\.0\.19 \S+ 10\.244\.1\.19 +ICMP 98 Echo \(ping\) request"),
        ("--outer", TSHARK_OUTER, r"eth:.*:udp:vxlan:eth:.*:icmp:data\t1\t1,?.*\tencap to \S+, forwarded"),
    ],
)
def test_a_capture_through_a_pipe(lab: Lab, which: str, reader: str, line: str) -> None:
    """Readers decode the stream as it arrives; Wireshark's finds the outer checksum good."""
    name, *options = reader.split()
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    words = ctl(lab, "capture", "-w", "-", which, "-c", "6", "icmp", "and", "host", lab.b.pod[4])
    with (
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as capture,
        subprocess.Popen(
            [name, *options], stdin=capture.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as reading,
    ):
        while capture.poll() is None:
            ping(lab.a.pod_ns, lab.b.pod[4])
        said, errors = reading.communicate(timeout=PATIENCE_S)
    assert (capture.returncode, reading.returncode) == (0, 0), errors
    assert len(re.findall(line, said)) >= 3, said


def test_outer_datagrams_equal_those_on_the_wire(lab: Lab, tmp_path: Path) -> None:
    """--outer has the datagrams of a capture on the underlay: addresses, ports, VNI, the same inner frame."""
    path = tmp_path / "outer.pcapng"
    with capturing(lab, path, "--outer", "icmp") as capture:
        ping(lab.a.pod_ns, lab.b.pod[4])
        wait_until(lambda: path.read_bytes().count(b"forwarded") == 6, "six packets")
    first, second = capture.packets()[:2]
    assert (first[IP].src, first[IP].dst, first[UDP].dport) == (lab.a.vtep, lab.b.vtep, PORT)
    assert (second[IP].src, second[IP].dst, second[UDP].dport) == (lab.b.vtep, lab.a.vtep, PORT)
    for packet in (first, second):
        content = bytes(packet)
        again = Ether(content)
        del again[IP].chksum, again[UDP].chksum
        assert bytes(again) == content
        assert bytes(packet[UDP].payload)[:8] == bytes([8, 0, 0, 0, 0, 0, 1, 0])


def test_a_stalled_reader_loses_packets(lab: Lab, tmp_path: Path) -> None:
    """While the reader sleeps traffic continues; frames that the rings could not keep are counted."""
    path = tmp_path / "stalled.pcapng"
    with capturing(lab, path) as capture:
        capture.process.send_signal(signal.SIGSTOP)
        send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 16 << 20)
        ping(lab.a.pod_ns, lab.b.pod[4])
        capture.process.send_signal(signal.SIGCONT)
        wait_until(lambda: any(ICMP in packet for packet in whole(path)), "it catches up")
    assert int(re.findall(r"(\d+) lost", capture.summary)[0]) > 0


def whole(path: Path) -> list[Any]:
    """Return the packets of a file that is still written, except the last."""
    try:
        with PcapNgReader(str(path)) as reader:
            return list(reader)
    except EOFError:
        return []


def test_a_live_trace_follows_real_frames(lab: Lab) -> None:
    """Both directions of one flow, as JSON, and no other flow; each request before its reply."""
    process = subprocess.Popen(
        ctl(lab, "trace", lab.a.pod[4], lab.b.pod[4], "--live", "--json"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], 0)[0]:
            ping(lab.a.pod_ns, lab.b.pod[4])
        ping(lab.a.pod_ns, lab.b.pod[4])
        directions = []
        for _ in range(6):
            frame = json.loads(process.stdout.readline())
            assert {frame["src"], frame["dst"]} == {lab.a.pod[4], lab.b.pod[4]}
            assert (frame["proto"], frame["verdict"], frame["outer"]) == ("icmp", "forwarded", lab.b.vtep)
            directions.append(frame["direction"])
        if directions[0] == "decap":  # the capture started between request and reply
            del directions[0]
        assert directions == ["encap", "decap", "encap", "decap", "encap", "decap"][: len(directions)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_peers_show_their_traffic(lab: Lab) -> None:
    """`vxlandctl peers` has the numbers of the metrics."""
    ping(lab.a.pod_ns, lab.b.pod[4])

    def counted() -> bool:
        """A frame may arrive a moment before it is counted."""
        found = [peer["traffic"] for peer in ask_json(lab.vxland, "peers")]
        return all(each["encap"]["frames"] >= 3 and each["decap"]["bytes"] >= 3 * 98 for each in found)

    wait_until(counted, "three frames each way")
