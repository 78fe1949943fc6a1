"""Output of vxlandctl and metrics of a node whose frames programs carry, compared with the wire.

pod a - cni0 - flannel.1 (vxland, fast path) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (lab.py has the addresses)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from socket import AF_PACKET, SOCK_RAW, htons, socket
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from tests.patience import PATIENCE_S

from .asking import METRICS, ask, ask_json, control, page
from .conftest import running
from .daemon import ROOT
from .lab import FAMILIES, Family, Lab
from .ns import wait_until
from .traffic import ping
from .wire import ETH_P_ALL, Capture

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with the fast path and metrics, node b the kernel's vxlan."""
    made = Lab(tmp_path_factory.mktemp("lab"), "compiled")
    made.vxland.settings["datapath"] |= {"fast_path": "auto"}
    made.vxland.settings["metrics"]["listen"] = METRICS
    for each in running(made):
        made.vxland.wait_for("fast_path_on")
        wait_until(lambda: _carries(made), "a program carries a ping", made.vxland.said)
        yield each


def _carries(lab: Lab) -> bool:
    """Return whether a program sends a ping: programs wait until the daemon has sent what it had before."""
    before = ask_json(lab.vxland, "stats")["fast_path"]["encap"]["frames"]
    ping(lab.a.pod_ns, lab.b.pod[4])
    return bool(ask_json(lab.vxland, "stats")["fast_path"]["encap"]["frames"] >= before + 3)


def _side(lab: Lab, src: str, dst: str) -> str:
    side: str = ask_json(lab.vxland, "trace", src, dst)["side"]
    return side


def metrics(lab: Lab) -> dict[tuple[str, ...], float]:
    """Return every sample of the fast path."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page(lab, "/metrics"))
        for sample in family.samples
        if sample.name.startswith("vxland_fast_path")
    }


def test_status(lab: Lab) -> None:
    """Status shows that the fast path is on, and the entries of both families."""
    status = ask_json(lab.vxland, "status")
    assert status["fast_path"] == {"on": True, "off": {}}
    found = status["planes"][0]["fast_path"]
    assert (found["on"], found["off"], found["superframes"], found["diverted"]) == (True, "", True, False)
    assert found["entries"] == {"peers": 1, "sources": 1, "inner_v4": 1, "inner_v6": 1}
    text = ask(lab.vxland, "status")
    assert "  fast path  on, superframes too\n" in text
    assert "peers 1 of 16384" in text
    assert metrics(lab)["vxland_fast_path", "flannel.1"] == 1


@pytest.mark.parametrize("device", ["flannel.1", ""], ids=["flannel.1", "any"])
def test_tcpdump_at_the_tap_sees_both_directions(lab: Lab, device: str) -> None:
    """It saw replies to requests that it did not see; without it programs carry again."""

    def is_diverted() -> bool:
        return bool(ask_json(lab.vxland, "status")["planes"][0]["fast_path"]["diverted"])

    with lab.a.ns.inside(lambda: socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL))) as sock:
        if device:
            sock.bind((device, ETH_P_ALL))
        sock.settimeout(PATIENCE_S)
        wait_until(is_diverted, "the daemon has all frames", lab.vxland.said)
        assert "a capture runs" in ask(lab.vxland, "status")
        seen = set[tuple[str, str]]()
        ping(lab.a.pod_ns, lab.b.pod[4])
        while len(seen) < 2:
            frame, (name, *_) = sock.recvfrom(1 << 16)
            packet = Ether(frame)
            if name == "flannel.1" and ICMP in packet:
                seen.add((packet[IP].src, packet[IP].dst))
        assert seen == {(lab.a.pod[4], lab.b.pod[4]), (lab.b.pod[4], lab.a.pod[4])}
    wait_until(lambda: not is_diverted(), "programs may carry again", lab.vxland.said)
    wait_until(lambda: _carries(lab), "a program carries a ping", lab.vxland.said)


def test_counters(lab: Lab) -> None:
    """Frames that programs carried are in the totals, in those of the peer, and in their own."""

    def counts() -> dict[str, int]:
        stats, (peer, _) = ask_json(lab.vxland, "stats"), ask_json(lab.vxland, "peers")
        return {
            f"{way} {name}": found[way]["frames"]
            for name, found in (("all", stats), ("programs", stats["fast_path"]), ("peer", peer["traffic"]))
            for way in ("encap", "decap")
        }

    before = counts()
    ping(lab.a.pod_ns, lab.b.pod[4])
    after = counts()
    assert all(after[name] >= before[name] + 3 for name in before), (before, after)
    assert after["encap all"] - before["encap all"] == after["encap peer"] - before["encap peer"]
    assert metrics(lab)["vxland_fast_path_frames_total", "encap"] >= 3
    assert metrics(lab)["vxland_fast_path_bytes_total", "decap"] >= 3 * 98
    assert "frames by the fast path" in ask(lab.vxland, "stats")
    assert "by programs" in ask(lab.vxland, "top", "--once", "--interval", "0.05")


@pytest.mark.parametrize("family", FAMILIES)
def test_trace_agrees_with_the_wire(lab: Lab, family: Family) -> None:
    """The program's datagram has the outer addresses, port, TTL, length and MACs that trace predicted."""
    source, target = lab.a.pod[family], lab.b.pod[family]
    with lab.a.pod_ns.socket(source) as sender, Capture(lab.a.ns) as capture:
        sport = sender.getsockname()[1]
        found = ask_json(lab.vxland, "trace", source, target, "udp", str(sport), "5353")
        before = ask_json(lab.vxland, "stats")["fast_path"]["encap"]["frames"]
        sender.sendto(b"traced", (target, 5353))
        (sent,) = capture.wait(lambda each: each.inner.payload.dst == target and bytes(each.inner).endswith(b"traced"))
        assert ask_json(lab.vxland, "stats")["fast_path"]["encap"]["frames"] > before
    outer = found["outer"]
    assert (found["direction"], found["verdict"], found["side"]) == ("encap", "forward", "program")
    assert (outer["src"], outer["dst"], outer["udp_src"]) == (sent.outer_src, sent.outer_dst, sent.src_port)
    assert (outer["ttl"], outer["tos"], outer["df"]) == (sent.outer_ttl, sent.outer_tos, sent.dont_fragment)
    assert (outer["udp_checksum"], outer["vni"]) == (sent.checksum_good, sent.vni)
    assert outer["length"] + len(b"traced") == sent.outer_len
    assert bytes.fromhex(outer["payload"])[8:22] == bytes(sent.inner)[:14]
    assert "bytes, without a checksum" in ask(lab.vxland, "trace", source, target, "udp", str(sport), "5353")
    assert _side(lab, target, source) == "program"


def test_a_capture_has_all_frames_go_to_the_daemon(lab: Lab) -> None:
    """Status and trace show that; once it ends, programs carry again."""
    words = ("-m", "vxland.ctl", "--socket", str(control(lab.vxland)), "capture", "icmp")
    with subprocess.Popen((sys.executable, *words), cwd=ROOT, stdout=subprocess.PIPE, text=True) as capture:
        try:
            wait_until(lambda: _side(lab, lab.a.pod[4], lab.b.pod[4]) == "daemon", "a trace that knows of the capture")
            assert "; a capture runs, so all frames go to the daemon\n" in ask(lab.vxland, "status")
        finally:
            capture.terminate()
    wait_until(lambda: _carries(lab), "the program carries again")


def test_off(lab: Lab) -> None:
    """Programs that may not run: the reason is in status, trace and metrics. Here a policy of IPsec."""
    ends = f"src {lab.a.vtep} dst 192.168.111.200"
    lab.a.ns.ip(f"xfrm policy add {ends} dir out tmpl {ends} proto esp mode tunnel")
    try:
        wait_until(lambda: metrics(lab)["vxland_fast_path", "flannel.1"] == 0, "no fast path", lab.vxland.said)
        reason = "this node has IPsec policies, which programs would bypass"
        assert f"  fast path  off: {reason}\n" in ask(lab.vxland, "status")
        found: dict[str, Any] = ask_json(lab.vxland, "trace", lab.a.pod[4], lab.b.pod[4])
        assert found["side"] == "daemon"
        assert dict(found["steps"])["side"] == f"daemon; {reason}"
        assert found["outer"]["udp_checksum"] is True
        before = ask_json(lab.vxland, "stats")["fast_path"]
        ping(lab.a.pod_ns, lab.b.pod[4])
        assert ask_json(lab.vxland, "stats")["fast_path"] == before
    finally:
        lab.a.ns.ip(f"xfrm policy delete {ends} dir out")
    wait_until(lambda: metrics(lab)["vxland_fast_path", "flannel.1"] == 1, "the fast path", lab.vxland.said)
    wait_until(lambda: _carries(lab), "the program carries again")
