"""Configured outer headers: vxland and a kernel vxlan device configured alike, captured and compared.

node a: vxland                         node b: kernel vxlan
  flannel.1 - e0 ====[capture]==== e0 - flannel.1          (lab.py has the addresses)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import carried
from .conftest import running
from .lab import FAMILIES, FLANNELS_OUTER, DataPath, Family, Lab
from .ns import wait_until
from .traffic import HEADERS, ping, send_tcp
from .wire import Capture, Datagram, checksums_on_the_wire, inner_udp, set_tos, vxlan_header

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("_able")]

LABS: list[tuple[DataPath, Family]] = [("compiled", 4), ("interpreted", 4), ("fast-path", 4), ("compiled", 6)]
_MODE = ("mode", "transport", "reqid", "1")
_KEYS = ("auth", "hmac(sha256)", "0x" + "5a" * 32, "enc", "cbc(aes)", "0x" + "a5" * 16)


@pytest.fixture(scope="module", params=LABS, ids=lambda param: f"{param[0]}-over-ipv{param[1]}")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose outer headers configure() changes."""
    data_path, underlay = request.param
    yield from running(Lab(tmp_path_factory.mktemp("outer"), data_path, underlay=underlay))


def configure(lab: Lab, kernel: str, **underlay: object) -> None:
    """Restart vxland with further settings of the underlay, and make the kernel's device with ip-link(8)'s options."""
    lab.vxland.stop()
    lab.vxland.settings["underlay"] = {"address": lab.a.vtep, **underlay}
    mac = lab.b.mac()
    lab.kernel.delete()
    lab.kernel.create(mac, kernel)
    lab.kernel.add_peer(lab.a, lab.a.mac())
    lab.vxland.start()
    if lab.vxland.has_fast_path:
        wait_until(lambda: carries(lab), "programs carry a ping", lab.vxland.said)


def carries(lab: Lab) -> bool:
    """Return whether programs carry pings of node a: at first, the daemon does."""
    before = carried(lab.vxland, "encap")
    for family in FAMILIES:
        lab.a.ns.run("ping", "-c1", lab.b.gateway[family])
    return carried(lab.vxland, "encap") == before + len(FAMILIES)


POLICIES: dict[str, tuple[dict[str, object], str]] = {
    "fixed": ({"ttl": 33, "dscp": 46, "df": "set"}, "ttl 33 tos 0xb8 df set"),
    "inherited": ({"ttl": "inherit", "dscp": "inherit", "df": "inherit"}, "ttl inherit tos inherit df inherit"),
    "mixed": ({"ttl": 9, "dscp": "inherit"}, "ttl 9 tos inherit df unset"),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_headers_equal_the_kernels(lab: Lab, policy: str) -> None:
    """TTL, TOS and DF of the datagrams of both, for inner packets of either family, with DF and without, ECN and DSCP.

    Except CE, which the kernel sends as outer ECT(0): docs/architecture.md. Programs send all of them, or none. Each
    train has one TTL, TOS and DF; nothing of a stream is lost, in either direction.
    """
    ours, kernels = POLICIES[policy]
    configure(lab, kernels, **ours)
    before = carried(lab.vxland, "encap")
    found = seen(lab, "a")
    by_programs = carried(lab.vxland, "encap") - before
    assert by_programs >= len(found) if lab.vxland.has_fast_path else by_programs == 0
    assert found == seen(lab, "b")
    for family in FAMILIES:
        send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[family], 2_000_000)
        send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[family], 2_000_000)


def seen(lab: Lab, letter: str) -> dict[tuple[int, int, int, bool], tuple[int, int, bool]]:
    """Return, by inner family, TOS, TTL and DF, the TTL, TOS and DF of a node's datagram."""
    near, far = (lab.a, lab.b) if letter == "a" else (lab.b, lab.a)
    found: dict[tuple[int, int, int, bool], tuple[int, int, bool]] = {}
    (source, src), (target, dst) = near.end("host"), far.end("host")
    for family in FAMILIES:
        with (
            Capture(lab.a.ns) as capture,
            source.socket(src[family]) as sender,
            target.socket(dst[family]) as receiver,
        ):
            cases = [(tos, ttl, df) for tos in (0, 1, 2, 0xB8, 0xBA) for ttl in (5, 77) for df in (False, True)]
            for tos, ttl, df in cases:
                set_tos(sender, tos)
                level, option = (socket.IPPROTO_IP, socket.IP_TTL) if family == 4 else (socket.IPPROTO_IPV6, 16)
                sender.setsockopt(level, option, ttl)
                if family == 4:
                    sender.setsockopt(socket.IPPROTO_IP, 10, 2 if df else 0)  # IP_MTU_DISCOVER, linux/in.h
                sender.sendto(b"x", receiver.getsockname())
                assert receiver.recv(1) == b"x"
            sent = [each for each in capture.datagrams() if each.outer_src == near.vtep and _is_udp(each)]
        assert len(sent) == len(cases)
        for case, datagram in zip(cases, sent, strict=True):
            found[family, *case] = (datagram.outer_ttl, datagram.outer_tos, datagram.dont_fragment)
    return found


def _is_udp(datagram: Datagram) -> bool:
    return bool(datagram.inner.payload.payload.name == "UDP")


def test_a_group_policy_passes(lab: Lab) -> None:
    """A kernel device made with `gbp` sends the packet's mark as the policy id; vxland accepts the frame."""
    configure(lab, f"{FLANNELS_OUTER} gbp")
    rules = (
        "add table inet marks",
        "add chain inet marks out { type route hook output priority 0; }",
        "add rule inet marks out oifname flannel.1 meta mark set 77",
    )
    lab.b.ns.run("nft", "; ".join(rules))
    with Capture(lab.a.ns) as capture:
        ping(lab.a.ns, lab.b.gateway[4])
        sent = capture.wait(lambda each: each.outer_src == lab.a.vtep, 3)
        back = capture.wait(lambda each: each.outer_src == lab.b.vtep and each.flags & 0x80 != 0, 3)
    assert {(each.flags, each.reserved) for each in sent} == {(0x08, 0)}
    assert {(each.flags, each.reserved >> 8) for each in back} == {(0x88, 77)}
    lab.b.ns.run("nft", "delete table inet marks")


@pytest.mark.parametrize("lab", [("compiled", 6)], ids=["compiled-over-ipv6"], indirect=True, scope="module")
@pytest.mark.parametrize("wanted", ["on", "off"])
def test_checksums_over_ipv6(lab: Lab, wanted: str) -> None:
    """With `off` none is sent, and a datagram without one is accepted; with `on` it is not."""
    configure(lab, "ttl 0 tos 0" if wanted == "on" else "ttl 0 tos 0 udp6zerocsumrx", ipv6_checksum=wanted)
    with checksums_on_the_wire(lab.a.ns, lab.b.ns), Capture(lab.a.ns) as capture:
        ping(lab.a.pod_ns, lab.b.pod[4], lab.a.mtu - HEADERS[4])
        sent = capture.wait(lambda each: each.outer_src == lab.a.vtep, 3)
        assert {each.checksum_good for each in sent} == {wanted == "on"}
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 500_000)
    with lab.b.ns.socket(lab.b.vtep) as forger, lab.a.pod_ns.socket(lab.a.pod[4]) as receiver:
        port = receiver.getsockname()[1]
        for content, checksum in ((b"without", False), (b"with", True)):
            inner = inner_udp((lab.b.mac(), lab.a.mac()), (lab.b.pod[4], lab.a.pod[4]), port, content)
            forger.setsockopt(socket.IPPROTO_UDP, 101, not checksum)  # UDP_NO_CHECK6_TX, linux/udp.h
            forger.sendto(vxlan_header() + inner, (lab.a.vtep, 8472))
        assert receiver.recv(100) == (b"with" if wanted == "on" else b"without")


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose VTEPs use ESP in transport mode for UDP port 8472."""
    for lab in running(Lab(tmp_path, "compiled")):
        for node in lab.nodes:
            for number, (src, dst) in enumerate(((lab.a.vtep, lab.b.vtep), (lab.b.vtep, lab.a.vtep))):
                ends = ("src", src, "dst", dst, "proto", "esp")
                done = node.ns.attempt("ip", "xfrm", "state", "add", *ends, "spi", str(0x100 + number), *_MODE, *_KEYS)
                if "not found" in done.stderr:
                    pytest.skip(f"this kernel has no ESP: {done.stderr.strip()}")
                assert done.returncode == 0, done.stderr
                way = "out" if src == node.vtep else "in"
                selector = ("src", src, "dst", dst, "proto", "udp", "dport", "8472")
                node.ns.run("ip", "xfrm", "policy", "add", *selector, "dir", way, "tmpl", *ends, *_MODE)
        yield lab


def test_over_ipsec(encrypted: Lab) -> None:
    """The wire shows no VXLAN; pods get the smaller MTU, and streams of both families cross."""
    near, far = encrypted.a, encrypted.b
    with Capture(near.ns) as capture:
        ping(near.pod_ns, far.pod[4])
        assert capture.datagrams() == []

    def has_mtu() -> bool:
        full = str(near.mtu - HEADERS[4])
        return "mtu" in near.pod_ns.attempt("ping", "-c1", "-W1", "-Mdo", "-s", full, far.pod[4]).stdout

    wait_until(has_mtu, "the pod gets the MTU without ESP", encrypted.vxland.said)
    for family in FAMILIES:
        send_tcp(near.pod_ns, far.pod_ns, far.pod[family], 2_000_000)
