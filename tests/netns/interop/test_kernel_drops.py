"""Datagrams that the kernel drops before vxland reads them have their own reason; lab.py: topology, node b forges."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from .asking import METRICS, ask, ask_json, page
from .conftest import running
from .lab import PORT, Family, Lab
from .ns import wait_until
from .traffic import ping
from .wire import Forger, packet_socket, vxlan_header

pytestmark = pytest.mark.netns

COUNT = 7
SIZES = (60, 1400)  # the kernel verifies up to 76 bytes before the socket lookup: CHECKSUM_BREAK, skbuff.h


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland, with metrics, over an underlay of either family."""
    underlay: Family = request.param
    made = Lab(tmp_path_factory.mktemp("drops"), "compiled", underlay=underlay)
    made.vxland.settings["metrics"]["listen"] = METRICS
    yield from running(made)


def kernel_drops(lab: Lab) -> dict[str, int]:
    """Return the nonzero drops of decap in `vxlandctl stats`."""
    found: dict[str, int] = ask_json(lab.vxland, "stats")["decap"]["drops"]
    return {reason: count for reason, count in found.items() if count}


def has_lost(lab: Lab, reason: str, count: int) -> bool:
    """Return whether exactly so many were dropped for this reason."""
    return kernel_drops(lab).get(reason) == count


def send_bad(lab: Lab, size: int) -> None:
    """Send COUNT datagrams of `size` bytes with a wrong outer checksum."""
    near, far = (node.ns.ip_json("link show e0")[0]["address"] for node in (lab.b, lab.a))
    ip = IP if lab.underlay == 4 else IPv6
    udp = UDP(sport=4321, dport=PORT, chksum=0x1234) / (vxlan_header() + bytes(size))
    frame = bytes(Ether(src=near, dst=far) / ip(src=lab.b.vtep, dst=lab.a.vtep) / udp)
    with lab.b.ns.inside(packet_socket) as sock:
        sock.bind(("e0", 0))
        for _ in range(COUNT):
            sock.send(frame)


def test_bad_checksums_have_their_own_reason(lab: Lab) -> None:
    """A short damaged datagram was not counted, a long one counted as a full queue, with the advice "more workers"."""
    before = kernel_drops(lab).get("outer_checksum", 0)
    for number, size in enumerate(SIZES, 1):
        send_bad(lab, size)
        wait_until(partial(has_lost, lab, "outer_checksum", before + COUNT * number), f"{COUNT} of {size} bytes more")
    assert "socket_queue_full" not in kernel_drops(lab)
    assert f"dropped: outer_checksum      0     {before + 2 * COUNT}" in ask(lab.vxland, "stats")
    text = page(lab, "/metrics")
    assert f'vxland_outer_checksum_errors_total{{device="flannel.1"}} {before + 2 * COUNT}.0' in text
    assert 'vxland_socket_full_total{device="flannel.1"} 0.0' in text


def test_no_checksum_at_all(lab: Lab) -> None:
    """Over IPv6 a datagram without one was lost and not counted (RFC 8200 section 8.1); over IPv4 it is valid."""
    before = kernel_drops(lab)
    with Forger(lab.b.ns, lab.b.vtep, lab.a.vtep) as forger:
        for _ in range(COUNT):
            forger.send(vxlan_header(vni=99) + bytes(60), checksum=False)
    word = "wrong_vni" if lab.underlay == 4 else "outer_checksum"
    wait_until(partial(has_lost, lab, word, before.get(word, 0) + COUNT), f"{COUNT} more: {word}")
    assert "socket_queue_full" not in kernel_drops(lab)


def test_the_log_has_the_reason(lab: Lab) -> None:
    """As for any drop, `frames_dropped` names it."""
    send_bad(lab, SIZES[1])
    wait_until(
        lambda: any(event.get("outer_checksum") for event in lab.vxland.events("frames_dropped")), "the log names it"
    )


def udp_counters(lab: Lab) -> dict[str, int]:
    """Return every error counter for UDP of node a's kernel."""

    def read() -> dict[str, int]:
        names, values = (
            line.split()[1:]
            for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
            if line.startswith("Udp:")
        )
        found = dict(zip(names, map(int, values), strict=True))
        pairs = (line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        found |= {name: int(value) for name, value in pairs if name.startswith("Udp6")}
        return {name: value for name, value in found.items() if "Errors" in name or "NoPorts" in name}

    return lab.a.ns.inside(read)


def test_a_start_costs_the_nodes_counters_nothing(lab: Lab) -> None:
    """Each start raised UdpRcvbufErrors by 126, which monitoring takes for lost datagrams."""
    lab.vxland.stop()
    before = udp_counters(lab)
    lab.vxland.start()
    after = udp_counters(lab)
    assert after == before
    ping(lab.a.pod_ns, lab.b.pod[4])
    assert "udp_segment (128 datagrams)" in ask(lab.vxland, "status")


def test_a_full_queue_of_another_program(lab: Lab) -> None:
    """The kernel counts it in the same network namespace, but it is not vxland's."""
    before = udp_counters(lab)
    key = "RcvbufErrors" if lab.underlay == 4 else "Udp6RcvbufErrors"
    with lab.a.ns.socket(lab.a.vtep) as full, lab.b.ns.socket(lab.b.vtep) as sender:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        for _ in range(100):
            sender.sendto(bytes(1000), full.getsockname())
        wait_until(lambda: udp_counters(lab)[key] > before[key], "the other program's queue runs over")
    assert "socket_queue_full" not in kernel_drops(lab)
