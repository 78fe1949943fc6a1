"""Counters and captures of what programs carry: exact, and the same wherever they are shown.

pod a - cni0 - flannel.1 (vxland, fast path) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (lab.py has the addresses)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import ICMP

from .asking import METRICS, ask_json, page
from .capturing import capturing
from .conftest import running
from .lab import FAMILIES, Family, Lab
from .ns import wait_until
from .traffic import HEADERS, send_tcp
from .wire import Capture

pytestmark = pytest.mark.netns

ETH_LEN = 14
PINGS = 30


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with the fast path and metrics, node b the kernel's vxlan."""
    made = Lab(tmp_path_factory.mktemp("lab"), "compiled").with_fast_path()
    made.vxland.settings["metrics"]["listen"] = METRICS
    yield from running(made)


def ping_many(lab: Lab, family: Family, size: int) -> None:
    """Send PINGS pings of this size from pod a to pod b, of which none is lost."""
    lab.a.pod_ns.run("ping", "-q", "-c", str(PINGS), "-i", "0.01", "-s", str(size), lab.b.pod[family])


def counts(lab: Lab) -> dict[str, dict[str, float]]:
    """Return frames and bytes by where they are shown: programs alone, and programs and daemon together."""
    stats = ask_json(lab.vxland, "stats")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page(lab, "/metrics"))
        for sample in family.samples
    }
    peer = ask_json(lab.vxland, "peers")[0]["traffic"]
    found: dict[str, dict[str, float]] = {}
    for way in ("encap", "decap"):
        for unit in ("frames", "bytes"):
            found[f"{way} {unit}"] = {
                "programs": stats["fast_path"][way][unit],
                "programs' metric": samples[f"vxland_fast_path_{unit}_total", way],
                "all": stats[way][unit],
                "peer": peer[way][unit],
                "metric": samples[f"vxland_{unit}_total", way],
                "peer's metric": samples[f"vxland_peer_{unit}_total", "flannel.1", way, lab.b.vtep],
            }
    return found


def carry(lab: Lab) -> None:
    """Return once programs carry pings of both families: at first, the daemon does."""

    def all_carried() -> bool:
        before = ask_json(lab.vxland, "stats")["fast_path"]["decap"]["frames"]
        for family in FAMILIES:
            ping_many(lab, family, 56)
        return bool(ask_json(lab.vxland, "stats")["fast_path"]["decap"]["frames"] >= before + 2 * PINGS)

    wait_until(all_carried, "programs carry pings", lab.vxland.said)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_ping_is_counted_once(lab: Lab, family: Family) -> None:
    """In stats, peers and metrics, in frames and in bytes."""
    carry(lab)
    before = counts(lab)
    ping_many(lab, family, 500)
    after = counts(lab)
    for name, values in after.items():
        more = PINGS * (ETH_LEN + HEADERS[family] + 500 if "bytes" in name else 1)
        assert values == {place: before[name][place] + more for place in values}, name


def test_superframes_are_counted_by_segments(lab: Lab) -> None:
    """As the daemon counts: each segment of a stream is a frame with headers of its own, on either side."""
    length = 3_000_000
    before = ask_json(lab.vxland, "stats")
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], length)
    after = ask_json(lab.vxland, "stats")
    frames, size = (after["encap"][unit] - before["encap"][unit] for unit in ("frames", "bytes"))
    assert after["fast_path"]["encap"]["bytes"] - before["fast_path"]["encap"]["bytes"] > length * 0.9
    assert frames >= length / (lab.a.mtu - 40)
    assert size >= length + frames * (ETH_LEN + 40)


def test_a_capture_has_all_frames(lab: Lab, tmp_path: Path) -> None:
    """While it runs programs carry none, and afterwards they carry again."""
    carry(lab)
    path = tmp_path / "capture.pcapng"
    with capturing(lab, path, "icmp") as capture:
        wait_until(lambda: ask_json(lab.vxland, "status")["planes"][0]["fast_path"]["diverted"], "it is diverted")
        before = ask_json(lab.vxland, "stats")["fast_path"]
        ping_many(lab, 4, 56)
        assert ask_json(lab.vxland, "stats")["fast_path"] == before
        wait_until(lambda: path.read_bytes().count(b"forwarded") >= 2 * PINGS, "all pings are in the file")
    kinds = [packet[ICMP].type for packet in capture.packets() if ICMP in packet]
    assert (kinds.count(8), kinds.count(0)) == (PINGS, PINGS)
    carry(lab)


def test_a_peer_whose_mac_has_a_zero(lab: Lab) -> None:
    """Pings to one peer in 256 were lost: a program made its MAC a group's for a moment, and the kernel looked then."""
    carry(lab)
    lab.b.ns.ip("addr replace 192.168.111.130/24 dev e0")
    lab.vxland.peers.append({"subnet": ["10.244.2.0/24"], "vtep": "192.168.111.130", "mac": "02:00:00:00:00:0c"})
    lab.vxland.reload()
    try:
        with Capture(lab.a.ns) as capture:
            lab.a.pod_ns.attempt("ping", "-c", "1", "-W", "0.1", "10.244.2.5")
            (sent,) = capture.wait(lambda found: found.inner.payload.dst == "10.244.2.5")
        assert (sent.outer_dst, sent.inner.dst) == ("192.168.111.130", "02:00:00:00:00:0c")
    finally:
        lab.vxland.peers.pop()
        lab.vxland.reload()
