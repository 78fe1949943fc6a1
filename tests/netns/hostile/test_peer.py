"""A host on the underlay, and a misbehaving peer, against a node: bounds on their effect on others, in counts.

pod a - cni0 - flannel.1 (vxland, one worker) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (interop/lab.py)
                                              ===== e0 of node b: unknown senders, forgers of b's address and of ICMP

A third node is in the registry and silent, so vxland diagnoses it all the time.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.frames import UDP, checksum, echo, ethernet, ipv4, udp
from tests.netns.interop.asking import METRICS, ask_json
from tests.netns.interop.conftest import running
from tests.netns.interop.daemon import ROOT
from tests.netns.interop.injecting import NODE_C
from tests.netns.interop.lab import PORT, Lab
from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import HEADERS, ping, send_tcp
from tests.netns.interop.wire import packet_socket, vxlan_header
from vxland.lab import shell

pytestmark = pytest.mark.netns

UNKNOWN = "192.168.111.131"
COUNT = 2000
SEGMENTS = 64  # datagrams in a train, the most that any kernel joins
GROWTH_KIB = 16 << 10
LINES = 60  # of the log that an attack may add
UDP_SEGMENT = 103  # linux/udp.h
FLOOD = """
import contextlib, socket, sys
source, target, port = sys.argv[1:]
datagrams = [bytes.fromhex(line) for line in sys.stdin.read().split()]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((source, 0))
    sock.connect((target, int(port)))
    print("sending", flush=True)
    while True:
        for datagram in datagrams:
            with contextlib.suppress(OSError):
                sock.send(datagram)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with one worker; node b's e0 also has an unknown address; node c does not exist."""
    made = Lab(tmp_path_factory.mktemp("hostile"), "compiled")
    made.vxland.settings["datapath"] |= {"workers": 1}
    made.vxland.settings["probe"]["interval_s"] = 1
    made.vxland.settings["metrics"]["listen"] = METRICS
    made.vxland.peers.append(NODE_C)
    for item in running(made):
        item.b.ns.ip(f"addr add {UNKNOWN}/24 dev e0")
        yield item


class Costs:
    """The effects of an attack, counted from the creation of this object."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before = self._stats()
        Path(f"/proc/{lab.vxland.pid}/clear_refs").write_text("5")  # the peak counts from now on, without the start's
        self._memory_kib = self._memory("VmRSS")
        self._lines = len(lab.vxland.said().splitlines())
        self._neighbours = lab.vxland.neighbours()
        self.pid = lab.vxland.pid

    def dropped(self, reason: str) -> int:
        """Return the datagrams dropped for a reason since then."""
        return int(self._stats()["decap"]["drops"][reason] - self._before["decap"]["drops"][reason])

    def accounted(self, *reasons: str) -> int:
        """Return the datagrams dropped for these reasons, and the trains dropped at a full socket."""
        return sum(self.dropped(reason) for reason in (*reasons, "socket_queue_full"))

    def are_bounded(self) -> None:
        """Assert that memory, log and neighbours are unchanged, and that good frames cross, full-size ones too."""
        lab = self._lab
        assert lab.vxland.pid == self.pid
        assert self._memory("VmHWM") < self._memory_kib + GROWTH_KIB
        assert len(lab.vxland.said().splitlines()) < self._lines + LINES
        assert lab.vxland.neighbours() == self._neighbours
        for near, far in ((lab.a, lab.b), (lab.b, lab.a)):
            ping(near.pod_ns, far.pod[4], near.mtu - HEADERS[4])
            ping(near.pod_ns, far.pod[6])
        send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 1 << 20)

    def _stats(self) -> Any:  # noqa: ANN401  (as JSON has it)
        return ask_json(self._lab.vxland, "stats")

    def _memory(self, field: str) -> int:
        text = Path(f"/proc/{self._lab.vxland.pid}/status").read_text()
        return int(text.partition(f"{field}:")[2].split()[0])


@pytest.fixture
def costs(lab: Lab) -> Costs:
    """The costs from the start of the test."""
    return Costs(lab)


@contextmanager
def sending(lab: Lab, source: str, datagrams: list[bytes]) -> Iterator[None]:
    """A process that sends these repeatedly, as fast as it can."""
    command = shell.exec_in(lab.b.ns.name, sys.executable, "-c", FLOOD, source, lab.a.vtep, str(PORT))
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        try:
            assert sender.stdin is not None
            assert sender.stdout is not None
            sender.stdin.write("\n".join(datagram.hex() for datagram in datagrams))
            sender.stdin.close()
            assert sender.stdout.readline() == "sending\n"
            yield
        finally:
            sender.kill()


def underlay(lab: Lab, packets: list[bytes]) -> None:
    """Send IPv4 packets from node b's interface, with any source address."""
    macs = [int(node.ns.ip_json("link show e0")[0]["address"].replace(":", ""), 16) for node in (lab.a, lab.b)]
    with lab.b.ns.inside(packet_socket) as sock:
        sock.bind(("e0", 0))
        for packet in packets:
            sock.send(ethernet(macs[0], macs[1], 0x0800, packet))


def inner(lab: Lab, src_mac: str | None = None) -> bytes:
    """Return a frame for node a's overlay address, with node b's or another source MAC."""
    dst, src = (int(mac.replace(":", ""), 16) for mac in (lab.a.mac(), src_mac or lab.b.mac()))
    return ethernet(dst, src, 0x0800, ipv4(lab.b.pod[4], lab.a.pod[4], 1, echo(b"forged")))


def probe(lab: Lab, subnet: str) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return the results of the pings to a peer."""
    return next(peer["probe"] for peer in ask_json(lab.vxland, "peers") if peer["subnet"] == subnet)


def test_what_looks_like_an_answer(lab: Lab) -> None:
    """A datagram with the bytes of an ARP reply in it ended the daemon while any peer was silent."""
    reply = bytes.fromhex("0806 0001 0800 06 04 0002 020000000001 0af40200")
    datagrams = [
        vxlan_header() + filling * at + reply + filling * 40 for at in range(80) for filling in (b"\0", b"\xff")
    ]
    with sending(lab, UNKNOWN, datagrams):
        lab.vxland.stop()
        lab.vxland.start()  # node c becomes silent, and is diagnosed under the flood
        wait_until(lambda: probe(lab, NODE_C["subnet"][0])["cause"], "the silent peer is examined", lab.vxland.said)
    assert probe(lab, NODE_C["subnet"][0])["cause"]["word"] in {"silent", "not_sent", "refused"}
    Costs(lab).are_bounded()


def test_garbage_of_every_kind(lab: Lab, costs: Costs) -> None:
    """Short, long and invalid datagrams, from an unknown sender and as a peer: each is counted, none delivered."""
    random = Random(7)  # noqa: S311  (the same garbage each time)
    good = vxlan_header() + inner(lab)
    garbage = [random.randbytes(random.choice((0, 1, 7, 8, 9, 22, 60, 1400))) for _ in range(COUNT // 2)]
    garbage += [good[: random.randrange(len(good))] for _ in range(COUNT // 2)]
    packets = [
        ipv4(source, lab.a.vtep, UDP, udp(source, lab.a.vtep, datagram, random.randrange(1024, 65536), PORT))
        for datagram in garbage
        for source in (UNKNOWN, lab.b.vtep)
    ]
    underlay(lab, packets)
    reasons = ("too_short", "i_flag_clear", "wrong_vni", "next_protocol", "unknown_vtep", "inner_malformed", "bum")
    wait_until(lambda: costs.accounted(*reasons) >= len(packets), "all are counted", lab.vxland.said)
    assert costs.dropped("unknown_vtep") > 0
    assert costs.dropped("outer_checksum") == 0
    costs.are_bounded()


def test_ten_thousand_unknown_senders(lab: Lab, costs: Costs) -> None:
    """As many forged source addresses; vxland keeps state of none of them."""
    datagram = vxlan_header() + inner(lab, "02:00:00:00:00:77")
    sources = [f"10.66.{number >> 8}.{number & 255}" for number in range(10_000)]
    underlay(lab, [ipv4(source, lab.a.vtep, UDP, udp(source, lab.a.vtep, datagram, 4000, PORT)) for source in sources])
    wait_until(
        lambda: costs.accounted("unknown_vtep") >= len(sources),
        "all are refused",
        lambda: str(costs.dropped("unknown_vtep")),
    )
    costs.are_bounded()


@pytest.mark.parametrize("size", [1, 8, 22, 41])
def test_trains_of_tiny_datagrams(lab: Lab, costs: Costs, size: int) -> None:
    """One send of the peer is a train of 64 datagrams of a few bytes, which UDP_GRO delivers in one piece."""
    piece = (vxlan_header() + inner(lab))[:size]
    with lab.b.ns.socket(lab.b.vtep) as sock:
        for _ in range(COUNT // SEGMENTS):
            control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
            sock.sendmsg([piece * SEGMENTS], control, 0, (lab.a.vtep, PORT))
    sent = COUNT // SEGMENTS * SEGMENTS
    wait_until(lambda: costs.accounted("too_short", "inner_malformed") >= sent, "all are refused", lab.vxland.said)
    assert costs.accounted("too_short", "inner_malformed") == sent
    costs.are_bounded()


def test_a_forged_peer(lab: Lab, costs: Costs) -> None:
    """As a peer: vxland's own MAC, another VNI, ARP replies for others. No neighbour and no other entry changes."""
    mac = int(lab.a.mac().replace(":", ""), 16)
    claim = bytes.fromhex("0001 0800 06 04 0002 020000000066") + bytes([10, 244, 1, 0])
    claim += mac.to_bytes(6, "big") + bytes([10, 244, 0, 0])
    kinds = {
        "own_mac": vxlan_header() + inner(lab, lab.a.mac()),
        "wrong_vni": vxlan_header(2) + inner(lab),
        "i_flag_clear": vxlan_header(flags=0) + inner(lab),
        "": vxlan_header() + ethernet(mac, 0x020000000066, 0x0806, claim),
    }
    for datagram in kinds.values():
        packet = ipv4(lab.b.vtep, lab.a.vtep, UDP, udp(lab.b.vtep, lab.a.vtep, datagram, 4000, PORT))
        underlay(lab, [packet] * 100)
    for reason in filter(None, kinds):
        wait_until(partial(has_cost, costs, reason, 100), reason)
    costs.are_bounded()
    wait_until(lambda: probe(lab, lab.b.subnet[4])["state"] == "reachable", "the true peer is well")


def test_icmp_of_every_kind(lab: Lab, costs: Costs) -> None:
    """ICMP errors from no router, about the VXLAN port and each source port: no send fails, no path MTU changes."""
    sockets = lab.a.ns.run("cat", "/proc/net/udp").splitlines()[1:]
    ports = {int(line.split()[1].rpartition(":")[2], 16) for line in sockets}
    assert PORT in ports
    failed = ask_json(lab.vxland, "stats")["encap"]["drops"]
    packets = []
    for port in ports:
        quoted = ipv4(lab.a.vtep, lab.b.vtep, UDP, udp(lab.a.vtep, lab.b.vtep, bytes(500), port, PORT))
        for kind, codes in ((3, range(16)), (4, range(1)), (5, range(4)), (11, range(2)), (12, range(3))):
            for code in codes:
                for mtu in (0, 68, 576, 1400, 65535):
                    head = struct.pack("!BBHHH", kind, code, 0, 0, mtu)
                    total = checksum(head + quoted)
                    error = head[:2] + struct.pack("!H", total) + head[4:] + quoted
                    packets.append(ipv4("192.168.111.1", lab.a.vtep, 1, error))
    underlay(lab, packets)
    costs.are_bounded()
    after = ask_json(lab.vxland, "stats")["encap"]["drops"]
    assert {reason: after[reason] for reason in ("send_failed", "too_big")} == {
        reason: failed[reason] for reason in ("send_failed", "too_big")
    }
    assert all(peer["path"]["mtu"] == 1500 for peer in ask_json(lab.vxland, "peers") if peer["vtep"] == lab.b.vtep)


def test_a_flood_from_the_peer_itself(lab: Lab, costs: Costs) -> None:
    """It may displace others in the queue while it lasts, and has no other or later effect."""
    with sending(lab, lab.b.vtep, [bytes(64), vxlan_header(3) + bytes(64), b""]):
        wait_until(lambda: costs.dropped("i_flag_clear") > COUNT, "it is read and dropped")
        assert ask_json(lab.vxland, "status")["not_ready"] == ""
    wait_until(partial(is_empty, lab), "what waits in the socket is read")
    costs.are_bounded()


def has_cost(costs: Costs, reason: str, count: int) -> bool:
    """Return whether so many were refused for a reason."""
    return costs.accounted(reason) >= count


def is_empty(lab: Lab) -> bool:
    """Return whether the receiving socket's queue is empty."""
    text = lab.a.ns.run("cat", "/proc/net/udp")
    waiting = re.findall(rf":{PORT:04X} \S+ \S+ [0-9A-F]+:([0-9A-F]+)", text)
    return all(int(each, 16) == 0 for each in waiting)
