"""Fields that outer headers inherit from inner ones: TOS or traffic class, TTL or hop limit, DF."""

from __future__ import annotations

import itertools

import pytest

from tests.frames import POD_A, POD_A6, POD_B, POD_B6, UDP, VNI, frame_of, ipv4, ipv6, udp
from tests.steps import encap_frame
from vxland.datapath.encap import Encap
from vxland.datapath.verdict import FORWARD
from vxland.model.kernel_state import OuterHeader

PORTS = 16


def frame(version: int, tos: int, ttl: int = 63, fragment: int = 0) -> bytes:
    """A UDP frame with this TOS or traffic class."""
    if version == 4:
        return frame_of(ipv4(POD_A, POD_B, UDP, udp(POD_A, POD_B, b"x"), tos=tos, ttl=ttl, fragment=fragment))
    return frame_of(ipv6(POD_A6, POD_B6, UDP, udp(POD_A6, POD_B6, b"x"), traffic_class=tos, hop_limit=ttl))


def forwarded(outer: OuterHeader, raw: bytes) -> tuple[Encap, bytes]:
    """The rules after a frame, and its VXLAN header."""
    verdict, encap, placed = encap_frame(raw, Encap(VNI, PORTS, outer))
    assert verdict == FORWARD
    return encap, placed.bytes_at(placed.at - 8, 8)


@pytest.mark.parametrize(("version", "dscp", "ecn"), list(itertools.product((4, 6), (0, 1, 46, 63), range(4))))
def test_ecn_is_always_copied_and_dscp_if_asked(version: int, dscp: int, ecn: int) -> None:
    """RFC 6040 section 4.1, and RFC 2983's uniform model where `dscp: inherit`; else its pipe model."""
    raw = frame(version, dscp << 2 | ecn)
    assert forwarded(OuterHeader(), raw)[0].marks == ecn
    assert forwarded(OuterHeader(dscp=10), raw)[0].marks == 10 << 2 | ecn
    assert forwarded(OuterHeader(dscp=None), raw)[0].marks == dscp << 2 | ecn


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1, 63, 255])
def test_the_ttl_is_inherited_if_asked(version: int, ttl: int) -> None:
    """Above the TOS in the marks; 0 there is the socket's own, also of an inner 0."""
    assert forwarded(OuterHeader(ttl=None), frame(version, 0xBA, ttl))[0].marks == ttl << 8 | 2
    assert forwarded(OuterHeader(ttl=9, dscp=None), frame(version, 0xBA, ttl))[0].marks == 0xBA


def test_df_chooses_the_socket() -> None:
    """With `df: inherit` the second half of them sets it: for IPv4 with DF, and for IPv6, as the kernel has it."""
    clear, with_df = frame(4, 0), frame(4, 0, fragment=0x4000)
    for outer in (OuterHeader(), OuterHeader(df="set")):
        assert {forwarded(outer, raw)[0].port < PORTS for raw in (clear, with_df, frame(6, 0))} == {True}
    port = forwarded(OuterHeader(df="inherit"), clear)[0].port
    assert port < PORTS
    assert forwarded(OuterHeader(df="inherit"), with_df)[0].port == port + PORTS
    assert forwarded(OuterHeader(df="inherit"), frame(6, 0))[0].port >= PORTS


def test_reserved_bits_are_sent_as_zero() -> None:
    """RFC 7348 section 5; a kernel device drops a datagram with any reserved bit set."""
    assert forwarded(OuterHeader(), frame(4, 0))[1] == bytes.fromhex("08000000 00000100")
