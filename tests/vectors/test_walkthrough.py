"""The walk-through's two datagrams, as ens33 saw a kernel vxlan device send them: our two directions agree with it.

The .hex files hold the outer IP packets byte by byte, copied from section 6 of flannel-network-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet import UDP as OUTER_UDP
from scapy.layers.l2 import Ether

from tests.frames import HOST_MAC, from_outer, lease, place
from vxland.datapath.coalesce import Coalescer
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.table import Table, table_of
from vxland.datapath.verdict import FORWARD

MASTER, WORKER = "192.168.111.128", "192.168.111.129"
MASTER_MAC, WORKER_MAC = 0xCE5FF673CFB9, 0x3A87CF816ACE
MASTER_LEASE = lease("10.244.0.0/24", MASTER, MASTER_MAC)
WORKER_LEASE = lease("10.244.1.0/24", WORKER, WORKER_MAC)
VNI, PORT, OVERLAY_MTU = 1, 8472, 1450


@dataclass(frozen=True)
class Capture:
    """One captured packet: its name, who sent it, who received it, and what each knows of the other."""

    name: str
    outer_src: str
    outer_dst: str
    receiver_mac: int
    known_to_sender: Table
    known_to_receiver: Table

    @property
    def raw(self) -> bytes:
        """The outer IP packet."""
        return bytes.fromhex(Path(__file__).with_name(f"walkthrough-{self.name}.hex").read_text(encoding="ascii"))

    @property
    def datagram(self) -> bytes:
        """What its UDP header carries."""
        return self.raw[28:]

    @property
    def frame(self) -> bytes:
        """The inner frame."""
        return self.raw[36:]


CAPTURES = [
    Capture("request", MASTER, WORKER, WORKER_MAC, table_of([WORKER_LEASE], PORT), table_of([MASTER_LEASE], PORT)),
    Capture("reply", WORKER, MASTER, MASTER_MAC, table_of([MASTER_LEASE], PORT), table_of([WORKER_LEASE], PORT)),
]


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_the_capture_is_what_the_page_says(capture: Capture) -> None:
    """Addresses, ports and lengths as tcpdump printed them: the vector was not mistyped."""
    outer = IP(capture.raw)
    assert (outer.src, outer.dst, outer.ttl, outer.flags, outer.len) == (
        capture.outer_src,
        capture.outer_dst,
        64,
        0,
        134,
    )
    assert (outer[OUTER_UDP].dport, outer[OUTER_UDP].len) == (PORT, len(capture.datagram) + 8)
    judged = IP(capture.raw)
    del judged.chksum
    assert bytes(judged)[:20] == capture.raw[:20]


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_decap_gives_the_inner_icmp(capture: Capture) -> None:
    """The receiver's TAP gets the frame with a plain virtio header: echo id 20, seq 47, between the two pods."""
    placed, decap = place(capture.datagram), Decap(VNI, capture.receiver_mac, True)
    metadata = from_outer(capture.outer_src)
    assert decap.decap(placed.buf, placed.at, placed.length, metadata, capture.known_to_receiver) == FORWARD
    run = Coalescer(tcp=True, udp=True)
    run.start(placed.buf, 0, decap)
    assert placed.bytes_at(0, 10) == bytes(10)
    frame = placed.bytes_at(decap.frame_at, decap.frame_len)
    assert frame == capture.frame
    inner = Ether(frame)
    assert {inner[IP].src, inner[IP].dst} == {"10.244.0.19", "10.244.1.13"}
    assert (inner[ICMP].type, inner[ICMP].id, inner[ICMP].seq) == (8 if capture.name == "request" else 0, 20, 47)


@pytest.mark.parametrize("dst_mac", [None, HOST_MAC], ids=["by MAC", "by subnet"])
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_encap_of_the_inner_frame_gives_the_datagram_back(capture: Capture, dst_mac: int | None) -> None:
    """VXLAN header and inner bytes are the kernel's, whether the host or our table chose the MAC."""
    frame = capture.frame if dst_mac is None else dst_mac.to_bytes(6, "big") + capture.frame[6:]
    placed, encap = place(frame), Encap(VNI, 16)
    assert encap.encap(placed.buf, placed.at, placed.length, capture.known_to_sender, 0) == FORWARD
    assert placed.bytes_at(placed.at - 8, 8 + placed.length) == capture.datagram
    assert capture.known_to_sender.vtep_at(encap.vtep).address == ip_address(capture.outer_dst)
    assert encap.marks == capture.raw[1] & 3 == 0
