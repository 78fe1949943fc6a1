"""Pods that send more than TCP in an IP packet (own tunnels, long options, segment routing), or have no offloads.

pod a - cni0 - flannel.1 (vxland, compiled) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (lab.py has the addresses)

Programs of the fast path leave these packets to the daemon, or carry them as they are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.patience import PATIENCE_S
from vxland.lab import shell

from .asking import ask_json
from .conftest import running
from .lab import FAMILIES, Family, Lab, Node
from .traffic import digest_one, exchange_udp, no_checksum_errors, send_tcp, send_udp_train

pytestmark = pytest.mark.netns

INNER: dict[Family, tuple[str, str]] = {4: ("172.16.0.1", "172.16.0.2"), 6: ("fd99::1", "fd99::2")}
OFFLOADS = ("tx", "tso", "gso", "tx-udp-segmentation")  # in the order in which they can be switched on again
UNKNOWN_OPTION = 0x1E  # RFC 4727: experimental; receivers that do not know it skip it


@pytest.fixture(scope="module", params=["compiled", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a with every offload: without them the kernel completes checksums and cuts itself."""
    yield from running(Lab(tmp_path_factory.mktemp("headers"), request.param))


@pytest.fixture(params=["on", "off"])
def offloads(request: pytest.FixtureRequest, lab: Lab) -> Iterator[None]:
    """Pod a's own device with its offloads, and without."""
    try:
        if request.param == "off":
            for feature in OFFLOADS:
                lab.a.pod_ns.run("ethtool", "-K", "eth0", feature, "off")
        yield
    finally:
        for feature in OFFLOADS:
            lab.a.pod_ns.run("ethtool", "-K", "eth0", feature, "on")


@contextmanager
def nothing_refused(lab: Lab) -> Iterator[None]:
    """Fail if node a's vxland drops a frame except multicast during the body, or a kernel finds a wrong checksum."""

    def drops() -> dict[str, int]:
        found: dict[str, int] = ask_json(lab.vxland, "stats")["encap"]["drops"]
        return {reason: count for reason, count in found.items() if reason != "bum" and not reason.endswith("_full")}

    before = drops()
    with no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns):
        yield
    assert drops() == before


@contextmanager
def tunnel(lab: Lab, over: Family) -> Iterator[None]:
    """A VXLAN of the pods' own between them, as Docker's or a nested cluster's."""
    try:
        for node, peer in ((lab.a, lab.b), (lab.b, lab.a)):
            own = INNER[4][node.number], INNER[6][node.number]
            node.pod_ns.batch(
                f"link add tun0 mtu 1300 type vxlan id 7 local {node.pod[over]} remote {peer.pod[over]} dstport 4789",
                f"addr add {own[0]}/24 dev tun0",
                f"addr add {own[1]}/64 dev tun0 nodad",
                "link set tun0 up",
            )
        yield
    finally:
        for node in lab.nodes:
            node.pod_ns.attempt("ip", "link", "del", "tun0")


@pytest.mark.parametrize("over", FAMILIES)
def test_a_pods_own_tunnel_works_over_the_overlay(lab: Lab, over: Family, offloads: None) -> None:  # noqa: ARG001  (set)
    """Its inner checksums are left to the device, far behind the outer UDP header, and completed there."""
    with tunnel(lab, over), nothing_refused(lab):
        for family in FAMILIES:
            near, far = INNER[family]
            send_tcp(lab.a.pod_ns, lab.b.pod_ns, far, 1_000_000)
            send_tcp(lab.b.pod_ns, lab.a.pod_ns, near, 1_000_000)
            exchange_udp(lab.a.pod_ns, near, lab.b.pod_ns, far, [1, 2, 100, 1200])
            send_udp_train(lab.a.pod_ns, near, lab.b.pod_ns, far, 1000, 20)


def test_a_pod_without_offloads(lab: Lab, offloads: None) -> None:  # noqa: ARG001  (set)
    """It sends no superframes and complete checksums, as some virtual machines do."""
    with nothing_refused(lab):
        for family in FAMILIES:
            send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 2_000_000)
            send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[family], 2_000_000)
            exchange_udp(lab.a.pod_ns, lab.a.pod[family], lab.b.pod_ns, lab.b.pod[family], [1, 1400, 3000])
            send_udp_train(lab.a.pod_ns, lab.a.pod[family], lab.b.pod_ns, lab.b.pod[family], 1200, 40)
            send_udp_train(lab.b.pod_ns, lab.b.pod[family], lab.a.pod_ns, lab.a.pod[family], 1200, 40)


OPTIONS = bytes([0, 32, UNKNOWN_OPTION, 255]) + bytes(255) + bytes([1, 3, 0, 0, 0])
"""Destination options of 264 bytes for setsockopt(IPV6_DSTOPTS), which sets the next header."""


def segments(node: Node, stops: int) -> tuple[bytes, list[str], str]:
    """Return a segment routing header for setsockopt(IPV6_RTHDR), its stops at a pod, and the last address.

    The kernel adds the connection's destination as the last one: RFC 8754 section 2 lists them in reverse order.
    """
    base = node.pod[6].rpartition("::")[0]
    last, between = f"{base}::40", [f"{base}::{41 + i}" for i in range(stops)]
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in [last, *reversed(between)])
    return bytes([0, len(addresses) // 8, 4, stops, stops, 0, 0, 0]) + addresses, between, last


def stream(lab: Lab, address: str, option: int, value: bytes) -> None:
    """Send a TCP stream from pod a to an address of pod b; each of its packets has the extension header."""
    content = os.urandom(1_000_000)
    with lab.b.pod_ns.socket(address, socket.SOCK_STREAM) as listener, ThreadPoolExecutor(1) as threads:
        listener.listen()
        receiver = threads.submit(digest_one, listener)
        with lab.a.pod_ns.socket(lab.a.pod[6], socket.SOCK_STREAM) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, option, value)
            sender.connect(listener.getsockname()[:2])
            sender.sendall(content)
            sender.shutdown(socket.SHUT_WR)
            digest, length = receiver.result(PATIENCE_S)
            assert (sender.recv(32, socket.MSG_WAITALL), length) == (digest, len(content))


def test_long_options_are_forwarded(lab: Lab) -> None:
    """Superframes with more than 248 bytes of headers were all dropped; the kernel forwards them."""
    before = ask_json(lab.vxland, "stats")["encap"]["frames"]
    with nothing_refused(lab):
        stream(lab, lab.b.pod[6], socket.IPV6_DSTOPTS, OPTIONS)
    assert ask_json(lab.vxland, "stats")["encap"]["frames"] - before > 1_000_000 // lab.a.mtu


@pytest.mark.parametrize("stops", [1, 10])
def test_segment_routing_is_forwarded(lab: Lab, stops: int) -> None:
    """The kernel refused segments whose checksum covered the next stop instead of the final destination."""
    header, between, last = segments(lab.b, stops)
    for device in ("all", "eth0"):
        shell.set_sysctl(lab.b.pod_ns.name, f"ipv6.conf.{device}.seg6_enabled", 1)
    lab.b.pod_ns.batch(*(f"addr replace {address}/64 dev eth0 nodad" for address in [last, *between]))
    without = ((lab.b.ns, "e0"), (lab.b.ns, "flannel.1"), (lab.b.pod_ns, "eth0"))
    for ns, device in without:
        ns.run("ethtool", "-K", device, "gro", "off")  # the kernel's GRO accepts the sum over the next stop
    try:
        with nothing_refused(lab):
            stream(lab, last, socket.IPV6_RTHDR, header)
    finally:
        for ns, device in without:
            ns.run("ethtool", "-K", device, "gro", "on")
