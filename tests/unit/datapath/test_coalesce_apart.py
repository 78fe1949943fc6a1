"""Runs: what does not join, one difference at a time. The frame is whole and good in each case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.frames import (
    MAC_C,
    POD_C,
    POD_C6,
    STRANGER,
    STRANGER6,
    TCP,
)
from tests.runs import HOME, MSS, alone, changed, each_stream, each_tcp, each_udp, on_v4
from tests.steps import joined
from tests.stream import ACK, AE, CWR, ECE, NOP, RST, SYN, TIMESTAMPS, URG, Stream, numbered
from vxland.datapath.coalesce import Coalescer

TCP_DIFFERENCES: dict[str, dict[str, Any]] = {
    "acknowledgement": {"ack": 2001},
    "window": {"window": 502},
    "urgent pointer": {"urgent": 1},
    "source port": {"sport": 40001},
    "ECE": {"flags": ACK | ECE},
    "CWR": {"flags": ACK | CWR},
    "URG": {"flags": ACK | URG},
    "SYN": {"flags": ACK | SYN},
    "RST": {"flags": ACK | RST},
    "AE": {"flags": ACK | AE},
    "a reserved bit": {"flags": ACK | 0x200},
    "no ACK": {"flags": 0},
    "a gap": {"seq": 1001},
    "an overlap": {"seq": 999},
    "a repetition": {"seq": 1000 - MSS},
    "half the numbers away": {"seq": 1000 + (1 << 31)},
}
SHARED_DIFFERENCES: dict[str, dict[str, Any]] = {
    "TTL": {"ttl": 62},
    "DSCP": {"tos": 4},
    "ECT(0)": {"tos": 2},
    "CE": {"tos": 3},
    "destination MAC": {"dst_mac": MAC_C},
    "source MAC": {"src_mac": MAC_C},
}
V4_DIFFERENCES: dict[str, dict[str, Any]] = {
    "the same ID": {"ident": 6},
    "an ID too far": {"ident": 8},
    "DF": {"fragment": 0},
    "the evil bit": {"fragment": 0xC000},
}


def apart(stream: Stream, other: Stream) -> None:
    """The second segment does not join the first, nor the first the second; without the difference it would."""
    first, second = stream.frame(numbered(MSS)), other.frame(numbered(MSS), MSS, 1)
    assert joined([first, second]) == alone([first, second])
    first, second = other.frame(numbered(MSS)), stream.frame(numbered(MSS), MSS, 1)
    assert joined([first, second]) == alone([first, second])
    assert len(joined(stream.segments(numbered(2 * MSS), MSS))) == 1


@each_tcp
@pytest.mark.parametrize("fields", TCP_DIFFERENCES.values(), ids=TCP_DIFFERENCES)
def test_differing_tcp_headers_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """Every field but those that segmentation changes."""
    apart(stream, replace(stream, **fields))


@each_stream
@pytest.mark.parametrize("fields", SHARED_DIFFERENCES.values(), ids=SHARED_DIFFERENCES)
def test_differing_ethernet_and_ip_headers_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """TTL or hop limit, both parts of the traffic class, both MACs."""
    apart(stream, replace(stream, **fields))


@on_v4
@pytest.mark.parametrize("fields", V4_DIFFERENCES.values(), ids=V4_DIFFERENCES)
def test_differing_ipv4_fields_stay_apart(stream: Stream, fields: dict[str, Any]) -> None:
    """IDs follow one another, as a device numbers what it cuts; the flags are equal."""
    apart(stream, replace(stream, **fields))


@each_stream
def test_other_addresses_stay_apart(stream: Stream) -> None:
    """Another source, another destination."""
    apart(stream, replace(stream, src=POD_C6 if stream.is_v6 else POD_C))
    apart(stream, replace(stream, dst=STRANGER6 if stream.is_v6 else STRANGER))


@pytest.mark.parametrize("stream", [HOME["TCP6"], HOME["UDP6"]], ids=["TCP6", "UDP6"])
def test_another_flow_label_stays_apart(stream: Stream) -> None:
    """No checksum covers it."""
    first, second = stream.segments(numbered(2 * MSS), MSS)
    second = changed(second, 17)
    assert joined([first, second]) == alone([first, second])


@each_udp
def test_another_udp_port_stays_apart(stream: Stream) -> None:
    """Other ports, other flow."""
    apart(stream, replace(stream, sport=40001))


@each_tcp
def test_other_options_stay_apart(stream: Stream) -> None:
    """Other timestamps; or as many bytes more of options as there are fewer of payload."""
    stream = replace(stream, options=TIMESTAMPS)
    apart(stream, replace(stream, options=TIMESTAMPS[:-1] + b"\xff"))
    apart(stream, replace(stream, options=TIMESTAMPS + NOP * 4))
    apart(stream, replace(stream, options=b""))


@each_stream
def test_other_ip_options_and_extensions_stay_apart(stream: Stream) -> None:
    """More of them, or others of the same length."""
    if stream.is_v6:
        apart(replace(stream, extensions=2), replace(stream, extensions=1))
        first, second = replace(stream, extensions=1).segments(numbered(2 * MSS), MSS)
        second = changed(second, 60)  # padding of the option
        assert joined([first, second]) == alone([first, second])
    else:
        apart(replace(stream, ip_options=NOP * 4), replace(stream, ip_options=NOP * 8))
        apart(replace(stream, ip_options=NOP * 4), replace(stream, ip_options=NOP * 3 + b"\0"))
        apart(replace(stream, ip_options=NOP * 12), replace(stream, options=stream.options + NOP * 12))


def test_other_families_and_protocols_stay_apart() -> None:
    """Whatever else is equal."""
    for one, other in (("TCP4", "TCP6"), ("TCP4", "UDP4"), ("UDP4", "UDP6"), ("TCP6", "UDP6")):
        apart(HOME[one], HOME[other])


@each_stream
def test_what_is_switched_off_stays_apart(stream: Stream) -> None:
    """A TAP that takes no superframes of the kind gets none; the other kind goes on."""
    frames = stream.segments(numbered(3 * MSS), MSS)
    off = Coalescer(tcp=stream.proto != TCP, udp=stream.proto == TCP)
    assert joined(frames, off) == alone(frames)
    only = Coalescer(tcp=stream.proto == TCP, udp=stream.proto != TCP)
    assert len(joined(frames, only)) == 1
