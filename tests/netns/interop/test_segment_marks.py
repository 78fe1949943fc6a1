"""Segment sizes of a kernel neighbour's superframes, which a mark reports (vxland/datapath/datagram.py).

        node a: vxland                                node b: the kernel's vxlan, as flannel sets it up
    pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b             (lab.py has the addresses)
          cut here          marked here

The link to pod a has no offload, so pod a receives the segments that node a's kernel cuts, in the size that vxland
declared. In place of a tc program, a rule of nftables marks what node a receives. Its size is the same for all packets,
as pod b's segments are all of one size.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vxland.datapath.datagram import SEGMENT_MARK

from .lab import FAMILIES, PORT, Family, Lab
from .ns import Ns
from .offloads import captured, cut_before_the_pod
from .traffic import no_checksum_errors, send_tcp

SO_RCVMARK = 75  # asm-generic/socket.h


def has_marks() -> bool:
    """Return whether this kernel reports marks: Linux 5.19 and later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
        except OSError:
            return False
    return True


pytestmark = [pytest.mark.netns, pytest.mark.skipif(not has_marks(), reason="needs SO_RCVMARK, Linux 5.19")]

STREAM = 4_000_000
ETH_LEN = 14
HEADERS: dict[Family, int] = {4: 20 + 20 + 12, 6: 40 + 20 + 12}
"""Bytes of IP and TCP with timestamps."""
SAFE_LEN: dict[Family, int] = {4: 576, 6: 1280}
"""Bytes of a packet that any path takes: RFC 9293 section 3.7.1, MUST-15."""
both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])


@contextmanager
def marked(ns: Ns, mark: int) -> Iterator[None]:
    """A mark on every VXLAN datagram that a node receives."""
    rule = f"iifname e0 udp dport {PORT} meta mark set {mark:#x}"
    ns.run("nft", f"table inet marks {{ chain c {{ type filter hook prerouting priority -300; {rule}; }}; }}")
    try:
        yield
    finally:
        ns.run("nft", "delete table inet marks")


def received_segments(lab: Lab, family: Family) -> list[int]:
    """Return the bytes of each packet with payload that pod a receives of a stream from pod b, which arrives whole."""
    kind = b"\x08\x00" if family == 4 else b"\x86\xdd"
    with (
        cut_before_the_pod(lab.a),
        captured(lab.a.pod_ns, "eth0") as frames,
        no_checksum_errors(lab.a.pod_ns, lab.b.pod_ns, lab.a.ns, lab.b.ns),
    ):
        send_tcp(lab.b.pod_ns, lab.a.pod_ns, lab.a.pod[family], STREAM)
        packets = [len(frame) - ETH_LEN for frame in frames() if frame[12:14] == kind]
    return [length for length in packets if length > HEADERS[family] + 100]


@both_families
def test_a_marked_superframe_is_cut_into_its_senders_segments(lab: Lab, family: Family) -> None:
    """A pod behind a link without TSO received nearly three times the packets, each of at most 576 bytes over IPv4."""
    mss = lab.a.mtu - HEADERS[family]
    with marked(lab.a.ns, SEGMENT_MARK | mss):
        segments = received_segments(lab, family)
    full = segments.count(lab.a.mtu)
    assert max(segments) == lab.a.mtu
    assert full * mss > 0.9 * STREAM
    assert len(segments) < 1.1 * STREAM / mss


@both_families
@pytest.mark.parametrize("mark", [0x4000, SEGMENT_MARK, SEGMENT_MARK | 35], ids=["kube-proxy's", "no size", "too fine"])
def test_other_marks_report_no_size(lab: Lab, family: Family, mark: int) -> None:
    """Superframes are cut into segments that any path takes, as without a mark."""
    with marked(lab.a.ns, mark):
        assert max(received_segments(lab, family)) == SAFE_LEN[family]
