"""Traffic over every pair of VTEPs: pings up to the MTU, TCP, UDP, IPv6 inside, in both directions.

      node a: vxland                     node b: kernel vxlan, or vxland in the other gear
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b       (lab.py has the addresses)

Offloads have their defaults: over veth a kernel vxlan device passes inner packets with incomplete checksums, and uncut
TCP superframes. No receiving kernel may count a checksum error. The fast path is on in some of the pairs, over either
wire; over IPv6 it says why it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .asking import ask_json
from .conftest import running
from .daemon import Gear
from .lab import Family, Kind, Lab, Place
from .traffic import HEADERS, exchange_udp, no_checksum_errors, ping, send_tcp, send_udp_train
from .wires import Wire

pytestmark = pytest.mark.netns

TCP_BYTES = 3_000_000
UDP_SIZES = (0, 1, 18, 64, 512, 1400, 1421, 1422, 1423, 3000, 9000, 60_000)

PAIRS: dict[str, tuple[Gear, Kind, Family, bool, Wire]] = {
    "compiled-kernel": ("compiled", "kernel", 4, False, "veth"),
    "interpreted-kernel": ("interpreted", "kernel", 4, False, "veth"),
    "compiled-interpreted": ("compiled", "interpreted", 4, False, "veth"),
    "compiled-kernel-over-ipv6": ("compiled", "kernel", 6, True, "veth"),
    "interpreted-kernel-over-ipv6": ("interpreted", "kernel", 6, False, "veth"),
    "mtu-sized": ("compiled", "compiled", 4, False, "mtu-sized"),
    "fast-path-kernel": ("compiled", "kernel", 4, True, "veth"),
    "fast-path-kernel-mtu-sized": ("interpreted", "kernel", 4, True, "mtu-sized"),
    "fast-path": ("compiled", "interpreted", 4, True, "veth"),
    "fast-path-mtu-sized": ("compiled", "compiled", 4, True, "mtu-sized"),
}
"""Gears, the underlay's IP version, whether with the fast path, and the wire."""

both_ways = pytest.mark.parametrize("there", [True, False], ids=["there", "back"])
both_families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
both_places = pytest.mark.parametrize("place", ["host", "pod"])


@pytest.fixture(scope="module", params=list(PAIRS.values()), ids=list(PAIRS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Every possible pair of VTEPs."""
    gear, other, underlay, fast, wire = request.param
    made = Lab(tmp_path_factory.mktemp("pair"), gear, other, underlay)
    made.wire = wire
    yield from running(made.with_fast_path() if fast else made)


@both_ways
@both_families
@both_places
def test_ping_small_and_at_the_mtu(pair: Lab, place: Place, family: Family, there: bool) -> None:
    """56 bytes, and exactly one MTU with DF; one byte more is not sent."""
    near, far = (pair.a, pair.b) if there else (pair.b, pair.a)
    source, _ = near.end(place)
    _, target = far.end(place)
    full = near.mtu - HEADERS[family]
    ping(source, target[family])
    ping(source, target[family], full)
    more = source.attempt("ping", "-c", "1", "-W", "0.1", "-M", "do", "-s", str(full + 1), target[family])
    assert more.returncode != 0
    assert re.search(f"mtu ?[:=] ?{near.mtu}", more.stderr), more


@both_ways
def test_ping_the_overlay_device(pair: Lab, there: bool) -> None:
    """The base address of the other's subnet, which is its flannel.1's, answers."""
    near, far = (pair.a, pair.b) if there else (pair.b, pair.a)
    ping(near.ns, far.base[4])
    ping(near.ns, far.base[6])


@both_ways
@both_families
@both_places
def test_tcp_content(pair: Lab, place: Place, family: Family, there: bool) -> None:
    """A TCP stream arrives unchanged, without a checksum error."""
    near, far = (pair.a, pair.b) if there else (pair.b, pair.a)
    source, _ = near.end(place)
    target, address = far.end(place)
    with no_checksum_errors(source, target):
        send_tcp(source, target, address[family], TCP_BYTES)


@both_families
@both_places
def test_udp_content(pair: Lab, place: Place, family: Family) -> None:
    """Datagrams of various sizes, above the MTU in inner fragments, are sent and returned unchanged."""
    source, source_address = pair.a.end(place)
    target, target_address = pair.b.end(place)
    with no_checksum_errors(source, target):
        exchange_udp(source, source_address[family], target, target_address[family], UDP_SIZES)
        exchange_udp(target, target_address[family], source, source_address[family], UDP_SIZES)


@both_ways
@both_families
def test_udp_segment_content(pair: Lab, family: Family, there: bool) -> None:
    """Many datagrams in one send, as QUIC does. The kernel's device gets them as one packet."""
    near, far = (pair.a, pair.b) if there else (pair.b, pair.a)
    source, source_address = near.end("pod")
    target, target_address = far.end("pod")
    with no_checksum_errors(source, target):
        send_udp_train(source, source_address[family], target, target_address[family], 1200, 20)


def test_programs_carried_their_part(pair: Lab) -> None:
    """Programs carried some of the frames above, both ways, if there is a fast path; otherwise none."""
    for vxland in pair.daemons:
        stats = ask_json(vxland, "stats")
        for way in ("encap", "decap"):
            carried, total = stats["fast_path"][way]["frames"], stats[way]["frames"]
            assert (0 < carried < total) if vxland.has_fast_path else carried == 0


def test_nothing_was_dropped(pair: Lab) -> None:
    """All tests above without one frame dropped except multicast, for which flannel's overlay has no destination."""
    for vxland in pair.daemons:
        try:
            assert vxland.stop() == 0
            assert vxland.drops("decap") == {}
            assert set(vxland.drops("encap")) <= {"bum"}
        finally:
            vxland.start()
