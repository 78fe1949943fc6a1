"""A pod with CAP_NET_RAW, which containers have by default, against its node: packet sockets with virtio headers.

pod a (attacker) --+
                   +- cni0 - flannel.1 (vxland, one worker) ===== flannel.1 (kernel vxlan) - cni0 - pod b
its neighbour -----+                                                             (interop/lab.py has the addresses)
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.frames import UDP as PROTO_UDP
from tests.frames import ethernet, ipv4, ipv6, udp, word_sum
from tests.netns.interop.asking import ask_json
from tests.netns.interop.daemon import ROOT
from tests.netns.interop.lab import Family, Lab
from tests.netns.interop.ns import Ns, wait_until
from tests.netns.interop.traffic import ping
from tests.stream import TCP4, numbered
from vxland.lab import shell

pytestmark = pytest.mark.netns

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/socket.h, linux/if_packet.h
PLAIN = bytes(10)
PORT = 5300
TRIES = 5
MARKER = b"the rule is gone"
FLOOD = """
import contextlib, socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.setsockopt(263, 15, 1)
    sock.bind(("eth0", 0))
    frame = sys.stdin.buffer.read()
    print("sending", flush=True)
    while True:
        with contextlib.suppress(OSError):
            while True:
                sock.send(frame)
"""


class Attacker:
    """The packet socket of pod a, and the addresses around it."""

    def __init__(self, lab: Lab, sock: socket.socket) -> None:
        self.lab = lab
        self._sock = sock
        self.src_mac = int(lab.a.pod_ns.ip_json("link show eth0")[0]["address"].replace(":", ""), 16)
        self.dst_mac = int(lab.a.ns.ip_json("link show cni0")[0]["address"].replace(":", ""), 16)

    def send(self, frame: bytes, virtio: bytes = PLAIN) -> None:
        """Send a frame after a virtio header."""
        self._sock.send(virtio + frame)

    def frame(self, family: Family, dst: str, l4: bytes) -> bytes:
        """Return the frame of a UDP packet from pod a."""
        src = self.lab.a.pod[family]
        packet = ipv4(src, dst, PROTO_UDP, l4) if family == 4 else ipv6(src, dst, PROTO_UDP, l4)
        return ethernet(self.dst_mac, self.src_mac, 0x0800 if family == 4 else 0x86DD, packet)


@pytest.fixture
def attacker(lab: Lab) -> Iterator[Attacker]:
    """Pod a, which knows its gateway's MAC."""
    sock = lab.a.pod_ns.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.bind(("eth0", 0))
        yield Attacker(lab, sock)


def refused(lab: Lab) -> int:
    """Return the number of frames that vxland refused for their headers."""
    found: int = ask_json(lab.vxland, "stats")["encap"]["drops"]["inner_malformed"]
    return found


@contextmanager
def dropping(lab: Lab, family: Family, *match: str) -> Iterator[None]:
    """A DROP rule in node a's firewall for forwarded packets."""
    rule = ("FORWARD", *match, "-j", "DROP")
    program = "iptables" if family == 4 else "ip6tables"
    lab.a.ns.run(program, "-w", "-I", *rule)
    try:
        yield
    finally:
        lab.a.ns.run(program, "-w", "-D", *rule)


def needs(start: int, offset: int) -> bytes:
    """Return the virtio header that requests a checksum."""
    return struct.pack("<BBHHHH", 1, 0, 0, 0, start, offset)


def with_word(frame: bytes, start: int, at: int, wanted: int) -> bytes:
    """Return the frame with a word at `at` that makes the checksum from `start` the wanted one."""
    rest = word_sum((frame[:at] + b"\0\0" + frame[at + 2 :])[start:])
    word = ((wanted ^ 0xFFFF) - rest) % 0xFFFF
    return frame[:at] + struct.pack("!H", word) + frame[at + 2 :]


@pytest.mark.parametrize("lab", ["compiled", "interpreted", "programs"], indirect=True, scope="module")
@pytest.mark.parametrize(("family", "start", "offset"), [(6, 20, 32), (4, 34, 2)], ids=["address", "port"])
def test_no_rule_of_the_nodes_firewall_is_bypassed(
    lab: Lab, attacker: Attacker, family: Family, start: int, offset: int
) -> None:
    """A "checksum" over the destination address or port took frames to destinations that the firewall had forbidden.

    Five frames are all refused; the first one received is one that was sent after the rule was removed.
    """
    target = lab.b.pod[family]
    match = ("-d", target) if family == 6 else ("-p", "udp", "--dport", str(PORT))
    src = lab.a.pod[family]
    honest = attacker.frame(family, target, udp(src, target, b"forbidden", dport=PORT))
    at, wanted = start + offset, int.from_bytes(honest[start + offset :][:2], "big")
    if family == 4:  # UDP over IPv4 needs no checksum
        honest = honest[:40] + b"\0\0" + honest[42:]
    disguised = with_word(honest, start, at, wanted)
    assert disguised[at : at + 2] != honest[at : at + 2]
    before = refused(lab)
    with lab.b.pod_ns.socket(target, port=PORT) as receiver:
        with dropping(lab, family, *match):
            for _ in range(TRIES):
                attacker.send(honest)
                attacker.send(disguised, needs(start, offset))
            wait_until(lambda: refused(lab) >= before + TRIES, "the frames are refused")
        attacker.send(attacker.frame(family, target, udp(src, target, MARKER, dport=PORT)))
        assert receiver.recv(1 << 16) == MARKER
    assert refused(lab) == before + TRIES


def superframe(attacker: Attacker, length: int) -> bytes:
    """Return a TCP superframe from pod a to pod b."""
    lab = attacker.lab
    packet = ipv4(lab.a.pod[4], lab.b.pod[4], TCP4.proto, TCP4.superframe(numbered(length))[TCP4.l4_at :])
    return ethernet(attacker.dst_mac, attacker.src_mac, 0x0800, packet)


@contextmanager
def flooding(lab: Lab, frame: bytes) -> Iterator[None]:
    """Pod a sends this as fast as a process can."""
    command = shell.exec_in(lab.a.pod_ns.name, *shell.PYTHON, "-c", FLOOD)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdin is not None
            assert sender.stdout is not None
            sender.stdin.write(frame)
            sender.stdin.close()
            assert sender.stdout.readline() == b"sending\n"
            yield
        finally:
            sender.kill()


def answered(ns: Ns, address: str, count: int) -> int:
    """Return the number of pings that were answered; only the first reply may take seconds."""
    done = ns.attempt("ping", "-c", str(count), "-i", "0.05", "-W", "10", address)
    found = re.search(r"(\d+) received", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1])


PINGS = 20
FINE = 36
"""Bytes of payload in the smallest segments of which a superframe may have thousands."""


def test_a_superframe_in_segments_of_one_byte_costs_its_neighbour_nothing(
    lab: Lab, attacker: Attacker, neighbour: Ns
) -> None:
    """60,000 datagrams per frame: half a second of it starved all other pods for 25 s, and the node for 20 s.

    None of its datagrams leaves. During the flood some of the neighbour's pings are answered, and afterwards all.
    """
    frame = superframe(attacker, 60_000)
    before = ask_json(lab.vxland, "stats")["encap"]
    with flooding(lab, TCP4.virtio(1) + frame):
        wait_until(lambda: refused(lab) > before["drops"]["inner_malformed"] + 1000, "the flood is refused")
        meanwhile = answered(neighbour, lab.b.pod[4], PINGS)
        assert meanwhile >= PINGS // 4
        after = ask_json(lab.vxland, "stats")["encap"]
    assert after["frames"] - before["frames"] <= 2 * PINGS
    ping(neighbour, lab.b.pod[4])
    assert all(answered(neighbour, lab.b.pod[4], 1) for _ in range(PINGS))


def test_the_smallest_segments_leave_capacity_for_a_neighbour(lab: Lab, attacker: Attacker, neighbour: Ns) -> None:
    """The worst case that is forwarded: 1,667 datagrams per frame. One such pod suppressed all pings of its neighbour.

    Some are forwarded and the rest is dropped, so that the queue is empty again and again.
    """
    frame = superframe(attacker, 60_000)
    before = ask_json(lab.vxland, "stats")["encap"]
    with flooding(lab, TCP4.virtio(FINE) + frame):
        wait_until(lambda: sent(lab) > before["frames"] + 10_000, "the flood is carried")
        assert answered(neighbour, lab.b.pod[4], PINGS) >= PINGS // 4
        assert ask_json(lab.vxland, "status")["planes"][0]["device"] == "flannel.1"
        after = ask_json(lab.vxland, "stats")["encap"]
    assert after["drops"]["overload"] > before["drops"]["overload"]
    ping(neighbour, lab.b.pod[4])
    assert all(answered(neighbour, lab.b.pod[4], 1) for _ in range(PINGS))


def sent(lab: Lab) -> int:
    """Return the number of frames that vxland sent: segments, for superframes."""
    found: int = ask_json(lab.vxland, "stats")["encap"]["frames"]
    return found
