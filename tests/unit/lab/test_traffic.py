"""Parsing of the output of ping and iperf3."""

from __future__ import annotations

import json

from vxland.lab.traffic import Throughput, parse_iperf, parse_ping, stalled_s

PING = """\
PING 10.244.1.13 (10.244.1.13) 56(84) bytes of data.
64 bytes from 10.244.1.13: icmp_seq=1 ttl=62 time=1.10 ms
64 bytes from 10.244.1.13: icmp_seq=2 ttl=62 time=0.544 ms

--- 10.244.1.13 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 402ms
rtt min/avg/max/mdev = 0.544/0.822/1.100/0.278 ms
"""


def test_ping_with_loss() -> None:
    """Counts, TTLs and the average of iputils' output."""
    ping = parse_ping("ping", PING)
    assert ping.average_ms == 0.822
    assert (ping.sent, ping.received, ping.ttls, ping.complete) == (3, 2, (62, 62), False)


def test_ping_with_errors() -> None:
    """Error counts between the counts of received and lost are skipped."""
    ping = parse_ping("ping", "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 402ms")
    assert (ping.sent, ping.received, ping.ttls) == (3, 0, ())


def test_ping_that_did_not_start() -> None:
    """An error message instead of numbers is a failure."""
    ping = parse_ping("ping", "ping: connect: Network is unreachable\n")
    assert not ping.complete
    assert ping.output == "ping: connect: Network is unreachable"


def test_iperf() -> None:
    """The rate is the receiver's."""
    report = {"end": {"sum_sent": {"bits_per_second": 9e9, "retransmits": 7}, "sum_received": {"bits_per_second": 8e9}}}
    assert parse_iperf(json.dumps(report)) == Throughput(8.0, 7)


def test_iperf_over_udp() -> None:
    """The receiver's end reports the loss; UDP has no retransmits."""
    ends = {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 8e9, "lost_percent": 11.1}}
    assert parse_iperf(json.dumps({"end": ends})) == Throughput(8.0, 0, lost_percent=11.1)


def test_iperf_in_both_directions() -> None:
    """The rate back is that of the other receiver."""
    ends = {
        "sum_sent": {},
        "sum_received": {"bits_per_second": 8e9},
        "sum_received_bidir_reverse": {"bits_per_second": 3e9},
    }
    assert parse_iperf(json.dumps({"end": ends})) == Throughput(8.0, 0, back_gbit_s=3.0)


def test_a_stall_is_all_time_without_bytes() -> None:
    """Intervals without bytes, and those that are missing because iperf3 ended early or printed nothing."""
    intervals = [{"sum": {"seconds": 0.1, "bytes": count}} for count in (5, 5, 0, 0, 0, 5)]
    report = json.dumps({"intervals": intervals})
    assert stalled_s(report, 0.6) == 0.3
    assert stalled_s(report, 1.0) == 0.7
    assert stalled_s(report, 0.299) == 0.0  # the clock of the intervals differs a little
    assert stalled_s("", 6.0) == 6.0


def test_iperf_that_failed() -> None:
    """An error, a report without an end, and no report: rate 0 and the reason."""
    assert parse_iperf('{"start": {}, "end": {}, "error": "refused"}') == Throughput(0.0, 0, "refused")
    assert parse_iperf('{"end": {}}').error
    assert parse_iperf("").error
