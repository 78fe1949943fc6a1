"""Wire bytes: a kernel vxlan device and vxland, captured in parallel on the underlay and parsed by scapy.

      node a: vxland, its fast path or not   node b: kernel vxlan
        flannel.1 - e0 ====[capture]==== e0 - flannel.1          (lab.py has the addresses)

The datagrams of both are compared. For the receiving side a forger in the other's namespace sends to both, and the
results are compared: the kernel is the reference.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP

from .asking import ask_json, carried
from .conftest import running
from .lab import FAMILIES, PORT, UNDERLAY_MTU, Family, Lab, Node
from .ns import wait_until
from .traffic import HEADERS, no_checksum_errors, ping, send_tcp
from .wire import (
    Capture,
    Datagram,
    Forger,
    Listener,
    checksums_on_the_wire,
    inner_udp,
    packet_socket,
    set_tos,
    vxlan_header,
)

pytestmark = pytest.mark.netns

both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
both_nodes = pytest.mark.parametrize("letter", ["a", "b"], ids=["vxland", "kernel"])


@pytest.fixture(
    scope="module",
    params=[("compiled", 4), ("compiled", 6), ("interpreted", 4), ("fast-path", 4)],
    ids=lambda data_path_and_underlay: "{}-over-ipv{}".format(*data_path_and_underlay),
)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland, node b the kernel's vxlan, over an underlay of either IP version."""
    data_path, underlay = request.param
    yield from running(Lab(tmp_path_factory.mktemp("lab"), data_path, underlay=underlay))


@pytest.fixture(autouse=True, scope="module")
def _checksums(lab: Lab) -> Iterator[None]:
    with checksums_on_the_wire(lab.a.ns, lab.b.ns):
        yield


def ends(lab: Lab, letter: str) -> tuple[Node, Node]:
    """Return the node of this letter, and the other."""
    return (lab.a, lab.b) if letter == "a" else (lab.b, lab.a)


def carries_udp(datagram: Datagram) -> bool:
    """Return whether the inner packet is UDP: the kernel may also send ICMP errors or solicitations."""
    return bool(datagram.inner.payload.payload.name == "UDP")


@both_families
@both_nodes
def test_headers(lab: Lab, letter: str, family: Family) -> None:
    """TTL 64, TOS 0, DF clear, a good UDP checksum, flags 8, reserved bits 0, the VNI, the VTEPs' MACs; unfragmented.

    DSCP is not copied. An inner packet of one MTU makes an outer one of exactly the underlay's MTU. A datagram that a
    program has sent has no checksum.
    """
    near, far = ends(lab, letter)
    _, target = far.end("pod")
    before = carried(lab.vxland, "encap")
    with Capture(lab.a.ns) as capture:
        ping(near.pod_ns, target[family], near.mtu - HEADERS[family], "-Q", "0xb8")
        datagrams = capture.wait(lambda found: found.inner.payload.dst == target[family], 3)
    without = sum(not datagram.has_checksum for datagram in datagrams)
    assert without == (carried(lab.vxland, "encap") - before if letter == "a" else 0)
    for datagram in datagrams:
        assert (datagram.outer_src, datagram.outer_dst) == (near.vtep, far.vtep)
        assert (datagram.outer_ttl, datagram.outer_tos) == (64, 0)
        assert (datagram.dont_fragment, datagram.fragment) == (False, False)
        assert datagram.outer_len == UNDERLAY_MTU
        assert datagram.src_port != PORT
        assert datagram.checksum_good or not datagram.has_checksum
        assert (datagram.flags, datagram.reserved, datagram.vni) == (0x08, 0, 1)
        assert (datagram.inner.src, datagram.inner.dst) == (near.mac(), far.mac())
        assert datagram.inner.type == {4: 0x0800, 6: 0x86DD}[family]


@both_nodes
def test_fragments_of_the_outer_packet(lab: Lab, letter: str) -> None:
    """The underlay shrinks: an inner packet of one MTU without DF crosses in outer fragments.

    Over IPv6 the kernel's device drops it, whereas vxland fragments.
    """
    near, far = ends(lab, letter)
    for node in lab.nodes:
        node.ns.ip("link set e0 mtu 1400")
    if lab.vxland.has_fast_path:
        wait_until(lambda: underlay_mtu(lab) == 1400, "programs know the new MTU", lab.vxland.said)
    try:
        with near.pod_ns.socket(near.pod[4]) as sender, far.pod_ns.socket(far.pod[4]) as receiver:
            sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT: linux/in.h
            sender.sendto(bytes(near.mtu - HEADERS[4]), receiver.getsockname())
            if lab.underlay == 6 and letter == "b":
                sender.sendto(b"smaller", receiver.getsockname())
                assert receiver.recv(1 << 16) == b"smaller"
            else:
                assert receiver.recv(1 << 16) == bytes(near.mtu - HEADERS[4])
    finally:
        for node in lab.nodes:
            node.ns.ip(f"link set e0 mtu {UNDERLAY_MTU}")


def underlay_mtu(lab: Lab) -> int:
    """Return the underlay's MTU that vxland has read."""
    mtu: int = ask_json(lab.vxland, "status")["planes"][0]["underlay"]["mtu"]
    return mtu


@both_families
@both_nodes
def test_tcp_with_checksums_on_the_wire(lab: Lab, letter: str, family: Family) -> None:
    """As from a peer on another machine: datagrams of one MTU, with complete inner checksums."""
    near, far = ends(lab, letter)
    with no_checksum_errors(near.ns, far.pod_ns):
        send_tcp(near.ns, far.pod_ns, far.pod[family], 1_000_000)


@both_families
@both_nodes
def test_ecn_is_copied_out(lab: Lab, letter: str, family: Family) -> None:
    """RFC 6040 section 4.1, normal mode: the outer ECN field is the inner one; outer DSCP is always 0.

    The kernel sends CE as outer ECT(0), as in RFC 3168 section 9.1.1 (include/net/inet_ecn.h,
    INET_ECN_encapsulate). Inside, CE stays CE either way.
    """
    near, far = ends(lab, letter)
    source, source_address = near.end("host")
    target, target_address = far.end("host")
    with (
        Capture(lab.a.ns) as capture,
        source.socket(source_address[family]) as sender,
        target.socket(target_address[family]) as receiver,
    ):
        for tos in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xBA, 0xBB):
            set_tos(sender, tos)
            sender.sendto(bytes([tos]), receiver.getsockname())
            assert receiver.recv(1) == bytes([tos])
        datagrams = [found for found in capture.datagrams() if found.outer_src == near.vtep and carries_udp(found)]
    inner = [datagram.inner.payload for datagram in datagrams]
    assert [packet.tos if family == 4 else packet.tc for packet in inner] == [0, 1, 2, 3, 0xB8, 0xBA, 0xBB]
    outside_of_ce = 3 if letter == "a" else 2
    assert [datagram.outer_tos for datagram in datagrams] == [0, 1, 2, outside_of_ce, 0, 2, outside_of_ce]


@both_families
def test_ecn_is_merged_as_in_the_kernel(lab: Lab, family: Family) -> None:
    """RFC 6040 section 4.2, all 16 combinations: the inner ECN field and the drops equal those of a kernel device.

    Outer CE makes inner ECT CE, and drops Not-ECT; outer ECT(1) replaces inner ECT(0). Inner DSCP stays.
    """
    merged = []
    for near, far in ((lab.b, lab.a), (lab.a, lab.b)):
        macs, addresses = (near.mac(), far.mac()), (near.gateway[family], far.gateway[family])
        with Forger(near.ns, near.vtep, far.vtep) as forger, Listener(far.ns, far.gateway[family]) as listener:
            for outer, inner in itertools.product(range(4), repeat=2):
                frame = inner_udp(macs, addresses, listener.port, b"%d%d" % (outer, inner), 0xB8 | inner)
                forger.send(vxlan_header() + frame, outer)
            forger.send(vxlan_header() + inner_udp(macs, addresses, listener.port, b"end"))
            merged.append(listener.receive_until(b"end"))
    ours, kernels = merged
    assert ours == kernels
    assert b"30" not in ours
    assert (ours[b"31"], ours[b"32"], ours[b"33"]) == (0xBB, 0xBB, 0xBB)
    assert (ours[b"02"], ours[b"20"]) == (0xBA, 0xB8)
    assert len(ours) == 15


ACCEPTED = {"plain", "an unknown source MAC", "broadcast", "no outer checksum"}
RESERVED = {"reserved flags", "reserved bytes", "last byte"}


def forgeries(near: Node, far: Node, port: int) -> dict[str, bytes]:
    """Return datagrams from `near` to a UDP port of `far`, whose content is their name."""
    addresses = (near.gateway[4], far.gateway[4])
    ours, theirs, unknown = near.mac(), far.mac(), "02:00:00:00:77:77"
    head = vxlan_header()
    heads = {
        "plain": head,
        "no I flag": vxlan_header(flags=0),
        "another VNI": vxlan_header(2),
        "reserved flags": vxlan_header(flags=0x18),
        "reserved bytes": head[:1] + b"\0\0\1" + head[4:],
        "last byte": head[:7] + b"\1",
    }
    macs = {
        "our own MAC as source": (theirs, theirs),
        "an unknown source MAC": (unknown, theirs),
        "broadcast": (ours, "ff:ff:ff:ff:ff:ff"),
        "another node's MAC": (ours, unknown),
    }
    return {
        **{name: own + inner_udp((ours, theirs), addresses, port, name.encode()) for name, own in heads.items()},
        **{name: head + inner_udp(pair, addresses, port, name.encode()) for name, pair in macs.items()},
        "header only": head,
        "shorter than a header": head[:7],
        "shorter than Ethernet": head + bytes(13),
    }


def test_unusual_datagrams_are_accepted_as_by_the_kernel(lab: Lab) -> None:
    """One forged datagram of each kind: vxland drops what a kernel vxlan device drops, and accepts what it accepts.

    Reserved bits are the one difference: the kernel drops a datagram with one set, and vxland ignores them, as RFC 7348
    section 5 requires of receivers. Over IPv6 neither accepts a datagram without outer checksum, RFC 8200 section 8.1.
    """
    arrived = []
    for near, far in ((lab.b, lab.a), (lab.a, lab.b)):
        with Forger(near.ns, near.vtep, far.vtep) as forger, Listener(far.ns, far.gateway[4]) as listener:
            for datagram in forgeries(near, far, listener.port).values():
                forger.send(datagram)
            macs, addresses = (near.mac(), far.mac()), (near.gateway[4], far.gateway[4])
            for name, checksum in (("no outer checksum", False), ("end", True)):
                frame = inner_udp(macs, addresses, listener.port, name.encode())
                forger.send(vxlan_header() + frame, checksum=checksum)
            arrived.append({content.decode() for content in listener.receive_until(b"end")})
    accepted = ACCEPTED if lab.underlay == 4 else ACCEPTED - {"no outer checksum"}
    assert arrived == [accepted | RESERVED, accepted]


def test_drops_are_counted_by_reason(lab: Lab) -> None:
    """Each dropped datagram is logged once, under its reason, at the latest when the daemon ends."""
    assert lab.vxland.stop() == 0
    lab.vxland.start()
    with (
        Forger(lab.b.ns, lab.b.vtep, lab.a.vtep) as forger,
        Listener(lab.a.ns, lab.a.gateway[4]) as listener,
    ):
        datagrams = forgeries(lab.b, lab.a, listener.port)
        for datagram in datagrams.values():
            forger.send(datagram)
        forger.send(datagrams["plain"], tos=3)  # outer CE, inner Not-ECT
        forger.send(datagrams["no I flag"])
        forger.send(datagrams["broadcast"])
        while listener.receive()[0] != b"broadcast":
            pass
        listener.receive_until(b"broadcast")
    try:
        assert lab.vxland.stop() == 0
        assert lab.vxland.drops("decap") == {
            "i_flag_clear": 2,
            "wrong_vni": 1,
            "too_short": 1,
            "inner_malformed": 2,
            "own_mac": 1,
            "ecn_ce": 1,
        }
    finally:
        lab.vxland.start()


@both_families
@both_nodes
def test_a_flow_keeps_its_source_port_and_flows_differ(lab: Lab, letter: str, family: Family) -> None:
    """Routers with several paths can spread the flows, and none reorders one."""
    near, far = ends(lab, letter)
    source, source_address = near.end("pod")
    target, target_address = far.end("pod")
    with Capture(lab.a.ns) as capture, target.socket(target_address[family]) as receiver:
        for port in range(5000, 5032):
            with source.socket(source_address[family], port=port) as sender:
                for _ in range(4):
                    sender.sendto(b"x", receiver.getsockname())
                    receiver.recv(1)
        datagrams = [found for found in capture.datagrams() if found.outer_src == near.vtep and carries_udp(found)]
    ports: dict[int, set[int]] = {}
    for datagram in datagrams:
        ports.setdefault(datagram.inner.payload.payload.sport, set()).add(datagram.src_port)
    assert sorted(ports) == list(range(5000, 5032))
    assert {len(chosen) for chosen in ports.values()} == {1}
    assert len(set.union(*ports.values())) >= 8


@pytest.mark.parametrize("source_port", [53, 4789, 65535])
def test_any_outer_source_port_is_accepted(lab: Lab, source_port: int) -> None:
    """Low and high source ports of a peer are accepted."""
    with (
        lab.b.ns.socket(lab.b.vtep, port=source_port) as sender,
        Listener(lab.a.ns, lab.a.gateway[4]) as listener,
    ):
        macs, addresses = (lab.b.mac(), lab.a.mac()), (lab.b.gateway[4], lab.a.gateway[4])
        sender.sendto(vxlan_header() + inner_udp(macs, addresses, listener.port, b"in"), (lab.a.vtep, PORT))
        assert listener.receive()[0] == b"in"


@both_families
@both_nodes
def test_both_directions_of_a_flow_share_a_source_port(lab: Lab, letter: str, family: Family) -> None:
    """Exchanging source and destination changes neither the kernel's hash nor vxland's.

    One VTEP gets both directions, as if the flow crossed it twice; ICMP errors that this causes don't count.
    """
    near, far = ends(lab, letter)
    macs = (near.mac(), far.mac())
    here, there = near.pod[family], far.pod[family]
    with Capture(lab.a.ns) as capture, near.ns.inside(packet_socket) as tap:
        tap.bind(("flannel.1", 0))
        for number in range(8):
            tap.send(inner_udp(macs, (here, there), 6000 + number, b"there", src_port=5000))
            tap.send(inner_udp(macs, (there, here), 5000, b"back", src_port=6000 + number))
        datagrams = capture.wait(lambda found: found.outer_src == near.vtep and carries_udp(found), 16)
    ports: dict[int, list[int]] = {}  # by the port that identifies the flow; workers may reorder flows
    for datagram in datagrams:
        ports.setdefault(max(datagram.inner[UDP].sport, datagram.inner[UDP].dport), []).append(datagram.src_port)
    assert sorted(ports) == list(range(6000, 6008))
    assert [len(both) for both in ports.values()] == [2] * 8
    assert {len(set(both)) for both in ports.values()} == {1}
    assert len({both[0] for both in ports.values()}) > 1
