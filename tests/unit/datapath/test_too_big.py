"""Rule 5: packets that the way to their VTEP does not carry in one piece."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether

from tests.frames import (
    MAC_B,
    OUTER_B,
    OUTER_C,
    OWN_MAC,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    POD_C,
    UDP,
    VNI,
    frame_of,
    halves,
    ipv4,
    ipv6,
    udp,
)
from tests.steps import encap_frame
from tests.stream import TCP4, TCP6, UDP4, Stream, numbered
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.verdict import FORWARD, Drop
from vxland.model.kernel_state import OuterHeader

MOST = 1350
DF = 0x4000
CLEAR, SET, INHERIT = OuterHeader(), OuterHeader(df="set"), OuterHeader(df="inherit")


def narrow(outer: OuterHeader = CLEAR, most: int = MOST) -> Encap:
    """Rules that know of a narrow way to B; the one to C carries all."""
    encap = Encap(VNI, 16, outer)
    encap.limits = Limits({ip_address(OUTER_B): most})
    return encap


def v4(length: int, fragment: int = DF, dst: str = POD_B) -> bytes:
    """A frame with an IPv4 packet of so many bytes."""
    return frame_of(ipv4(POD_A, dst, UDP, udp(POD_A, dst, bytes(length - 28)), fragment=fragment))


def v6(length: int) -> bytes:
    """A frame with an IPv6 packet of so many bytes."""
    return frame_of(ipv6(POD_A6, POD_B6, UDP, udp(POD_A6, POD_B6, bytes(length - 48))))


def error(encap: Encap, frame: bytes, virtio: bytes = bytes(10)) -> Ether:
    """The ICMP error that answers a frame which must not leave."""
    verdict, _, placed = encap_frame(frame, encap, virtio)
    assert verdict == Drop.TOO_BIG
    assert encap.answer_len > 0
    return Ether(placed.bytes_at(encap.answer_at, encap.answer_len))


def test_ipv4_with_df_is_answered() -> None:
    """ICMP type 3 code 4 with what gets through, RFC 1191 section 4, in the destination's name, quoting the packet."""
    found = error(narrow(), v4(MOST + 1))
    assert (int(found.dst.replace(":", ""), 16), int(found.src.replace(":", ""), 16)) == (OWN_MAC, MAC_B)
    assert (found[IP].src, found[IP].dst) == (POD_B, POD_A)
    assert (found[ICMP].type, found[ICMP].code, found[ICMP].nexthopmtu) == (3, 4, MOST)
    assert bytes(found)[14 + 28 :] == v4(MOST + 1)[14 : 14 + 576 - 28]
    for layer in (IP, ICMP):
        sent = found[layer].chksum
        del found[layer].chksum
        assert Ether(bytes(found))[layer].chksum == sent


def test_ipv6_is_answered() -> None:
    """ICMPv6 packet too big, RFC 4443 section 3.2."""
    found = error(narrow(), v6(MOST + 1))
    assert (found[IPv6].src, found[IPv6].dst) == (POD_B6, POD_A6)
    assert (found[ICMPv6PacketTooBig].code, found[ICMPv6PacketTooBig].mtu) == (0, MOST)
    sent = found[ICMPv6PacketTooBig].cksum
    del found[ICMPv6PacketTooBig].cksum
    assert Ether(bytes(found))[ICMPv6PacketTooBig].cksum == sent


@pytest.mark.parametrize("outer", [CLEAR, SET, INHERIT])
@pytest.mark.parametrize("frame", [v4(MOST), v6(MOST), v4(1450, dst=POD_C)], ids=["v4", "v6", "elsewhere"])
def test_what_fits_leaves(outer: OuterHeader, frame: bytes) -> None:
    """Up to the limit itself, and whatever its size to a VTEP whose way is not narrow."""
    encap = narrow(outer)
    assert encap_frame(frame, encap)[0] == FORWARD
    assert encap.answer_len == 0


def test_ipv4_without_df_leaves_in_fragments() -> None:
    """The kernel may cut the outer packet; only with `df: set` it may not, and then the sender gets an error."""
    for outer in (CLEAR, INHERIT):
        assert encap_frame(v4(MOST + 1, 0), narrow(outer))[0] == FORWARD
    assert error(narrow(SET), v4(MOST + 1, 0))[ICMP].nexthopmtu == MOST


def test_1280_bytes_of_ipv6_are_always_tried() -> None:
    """RFC 8200 section 5: a narrower link fragments below IPv6; no error reports less than 1280."""
    encap = narrow(most=1000)
    assert encap_frame(v6(1280), encap)[0] == FORWARD
    assert error(encap, v6(1281))[ICMPv6PacketTooBig].mtu == 1280
    assert error(encap, v4(1001))[ICMP].nexthopmtu == 1000


@pytest.mark.parametrize("stream", [TCP4, TCP6, UDP4], ids=["tcp4", "tcp6", "udp4"])
def test_of_a_superframe_the_segments_count(stream: Stream) -> None:
    """However long it is: it leaves if its segments fit, to the byte."""
    headers = len(stream.superframe(b"")) - 14
    frame = stream.superframe(numbered(20_000))
    encap = narrow(SET)
    assert encap_frame(frame, encap, stream.virtio(MOST - headers))[0] == FORWARD
    found = error(encap, frame, stream.virtio(MOST - headers + 1))
    assert (found[ICMPv6PacketTooBig].mtu if stream is TCP6 else found[ICMP].nexthopmtu) == MOST


def test_a_short_superframe_is_its_own_size() -> None:
    """A gso_size beyond its payload says nothing."""
    frame = TCP4.superframe(numbered(100))
    assert encap_frame(frame, narrow(), TCP4.virtio(60_000))[0] == FORWARD


def test_errors_are_rationed() -> None:
    """Beyond 50 at once the packet leaves in fragments rather than vanish; where it must not be cut it is dropped."""
    for outer, rest in ((CLEAR, FORWARD), (SET, Drop.TOO_BIG), (INHERIT, Drop.TOO_BIG)):
        encap = narrow(outer)
        verdicts = [encap_frame(v4(MOST + 1), encap)[0] for _ in range(60)]
        assert verdicts == [Drop.TOO_BIG] * 50 + [rest] * 10


def test_no_error_about_an_error_or_a_later_fragment() -> None:
    """RFC 1122 section 3.2.2; they leave in fragments."""
    icmp_error = frame_of(ipv4(POD_A, POD_B, 1, b"\x03\x01" + bytes(MOST), fragment=DF))
    for frame in (icmp_error, v4(MOST + 1, DF | 10)):
        assert encap_frame(frame, narrow())[0] == FORWARD
        encap = narrow(SET)
        assert encap_frame(frame, encap)[0] == Drop.TOO_BIG
        assert encap.answer_len == 0


def test_limits_know_whether_any_matters() -> None:
    """They are found by the address of the VTEP, in either family, so that they outlive tables."""
    assert not Limits({}).narrow
    narrowed = Limits({ip_address(OUTER_B): 1000, ip_address("2001:db8::1"): 1300})
    assert narrowed.narrow
    found = [narrowed.most(*halves(outer)) for outer in (OUTER_B, "2001:db8::1", OUTER_C, "2001:db8:1::1")]
    assert found == [1000, 1300, 1 << 20, 1 << 20]
