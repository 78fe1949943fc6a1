"""Cost of each step of the data path, called from Python: `make microbench`.

A Python call is in every time (some 40 ns), so compare numbers with one another rather than with a packet's budget.
"""

from __future__ import annotations

from itertools import islice

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.stream import MSS
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.segment import Segmenter
from vxland.datapath.table import table_of
from vxland.datapath.train import Train
from vxland.datapath.verdict import FORWARD
from vxland.lab.bench import scale
from vxland.model.lease import Lease
from vxland.model.source_check import SourceCheck
from vxland.wire.checksum import sum_bytes
from vxland.wire.virtio import HDR_LEN as VIRTIO_LEN
from vxland.wire.virtio import put_header
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header as put_vxlan

pytestmark = pytest.mark.bench

NEEDS_CSUM, TCPV4 = 1, 1  # of wire/virtio.py: C constants in the compiled gear, like segment.py's slots
SCRATCH_LEN = 256 * 128
VNI = 1
AT = 64  # where a frame lies, behind its headroom
SEGMENTS = 46
MACS = Ether(dst="3a:87:cf:81:6a:ce", src="ce:5f:f6:73:cf:b9")
OWN_MAC = 0x3A_87_CF_81_6A_CE


def leases(count: int) -> list[Lease]:
    """So many leases, each with a VTEP of its own."""
    return list(islice(scale.leases(), count))


def tcp_frame(payload: int, number: int = 0) -> bytes:
    """The segment of this number in a flow of segments of MSS bytes."""
    raw = (bytes(range(251)) * 300)[:payload]
    layer = TCP(sport=1, dport=2, seq=1 + number * MSS, ack=1, flags="A", options=[("Timestamp", (1, 2))])
    return bytes(MACS / IP(src="10.244.0.2", dst="10.0.9.2", id=number, flags="DF") / layer / Raw(raw))


def udp_frame() -> bytes:
    """A frame with 64 bytes of UDP payload."""
    return bytes(MACS / IP(src="10.244.0.2", dst="10.0.9.2") / UDP(sport=1, dport=2) / Raw(bytes(64)))


@pytest.mark.parametrize("count", [10, 10_000])
def test_lookup(benchmark: BenchmarkFixture, count: int) -> None:
    """scale.LOOKUPS lookups of an inner IPv4 destination."""
    benchmark(scale.asking(leases(count)))


@pytest.mark.parametrize("count", [10, 10_000])
def test_encap(benchmark: BenchmarkFixture, count: int) -> None:
    """One small UDP frame, checksum complete, destination MAC that of a VTEP."""
    table, encap = table_of(leases(count), 8472), Encap(VNI, 16)
    raw = udp_frame()
    buf = bytearray(AT) + raw
    assert encap.encap(buf, AT, len(raw), table, 0) == FORWARD  # from here on the MAC is the VTEP's
    assert benchmark(encap.encap, buf, AT, len(raw), table, 0) == FORWARD


def test_segment(benchmark: BenchmarkFixture) -> None:
    """One superframe of SEGMENTS segments, cut into trains."""
    table, encap, train = table_of(leases(10), 8472), Encap(VNI, 16), Train(128)
    raw = tcp_frame(SEGMENTS * MSS)
    buf = bytearray(AT) + raw
    put_header(buf, AT - VIRTIO_LEN, NEEDS_CSUM, TCPV4, 66, MSS, 34, 16)
    segmenter = Segmenter(len(buf))
    buf += bytes(SCRATCH_LEN)
    assert encap.encap(buf, AT, len(raw), table, 0) == FORWARD

    def cut() -> int:
        segments = 0
        assert segmenter.open(buf, AT, encap.ip, encap.csum_start, encap.gso_size)
        while not segmenter.done():
            train.begin(0, 0, 0, segmenter.datagram_len())
            segmenter.fill(buf, train)
            segments += train.datagrams
        return segments

    assert benchmark(cut) == SEGMENTS


@pytest.mark.parametrize("check", SourceCheck, ids=str)
def test_decap(benchmark: BenchmarkFixture, check: SourceCheck) -> None:
    """One datagram with a small UDP frame, from one VTEP of 1,000."""
    held = leases(1000)
    sender, datagram = held[500], Datagram()
    datagram.outer_src_hi, datagram.outer_src_lo = divmod(int(sender.vtep.address), 1 << 64)
    decap = Decap(VNI, OWN_MAC, check)
    raw = bytes(MACS / IP(src=str(sender.subnet[2]), dst="10.244.0.2") / UDP(sport=1, dport=2) / Raw(bytes(64)))
    buf = bytearray(AT + VXLAN_LEN) + raw
    put_vxlan(buf, AT, VNI)
    assert benchmark(decap.decap, buf, AT, VXLAN_LEN + len(raw), datagram, table_of(held, 8472)) == FORWARD


def test_coalesce(benchmark: BenchmarkFixture) -> None:
    """decap() of SEGMENTS datagrams of one flow, and their run."""
    table, datagram = table_of(leases(10), 8472), Datagram()
    decap, run = Decap(VNI, OWN_MAC, SourceCheck.OFF), Coalescer(tcp=True, udp=True)
    buf, starts = bytearray(AT), []
    for number in range(SEGMENTS):
        starts.append(len(buf))
        raw = tcp_frame(MSS, number)
        buf += bytes(VXLAN_LEN) + raw
        put_vxlan(buf, starts[-1], VNI)
    length = VXLAN_LEN + len(raw)
    first = bytes(buf[: AT + 128])

    def join() -> int:
        buf[: AT + 128] = first  # finish() has made its headers those of the run
        for start in starts:
            assert decap.decap(buf, start, length, datagram, table) == FORWARD
            if run.segments == 0:
                run.start(buf, AT - VIRTIO_LEN, decap)
            else:
                assert run.join(buf, decap)
        segments = run.segments
        run.finish(buf)
        run.clear()
        return segments

    assert benchmark(join) == SEGMENTS


@pytest.mark.parametrize("length", [MSS, 65_483])
def test_checksum(benchmark: BenchmarkFixture, length: int) -> None:
    """The sum over a payload."""
    buf = bytearray((bytes(range(251)) * 300)[:length])
    assert benchmark(sum_bytes, buf, 0, length, 0) > 0
