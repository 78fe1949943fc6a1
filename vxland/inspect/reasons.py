"""Direction, meaning and remedy of each drop reason. `make docs` writes docs/drops.md from this."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One drop reason: the direction it is counted in, its meaning, and what to check."""

    direction: str
    happened: str
    remedy: str


REASONS = {
    "too_short": Reason("decap", "the datagram ends before the end of its VXLAN header", "what sends to the port"),
    "truncated": Reason(
        "decap",
        "the datagram was longer than the buffer, or came in a train whose segment size the kernel did not report",
        "what sends to the port",
    ),
    "i_flag_clear": Reason("decap", "the header has no valid VNI (RFC 7348 section 5)", "what sends to the port"),
    "next_protocol": Reason("decap", "VXLAN-GPE with another protocol than Ethernet", "the peer's vxlan device"),
    "wrong_vni": Reason("decap", "a datagram of another overlay", "`overlay.vni`, the same on every node"),
    "unknown_vtep": Reason(
        "decap",
        "the outer source is not the VTEP of any lease",
        "`registry.peers`; NAT between the nodes; an unknown sender",
    ),
    "inner_malformed": Reason(
        "both",
        "inner headers contradict each other, the frame's length or its virtio header",
        "their sender; pods with packet sockets (docs/security.md)",
    ),
    "own_mac": Reason("decap", "the inner source is this node's own MAC", "two nodes with one MAC; a loop"),
    "inner_source_foreign": Reason(
        "decap",
        "the inner sender does not belong to the node that sent the datagram (`security.source_check: strict`)",
        "forged senders; traffic that the node forwards without masquerading",
    ),
    "ecn_ce": Reason(
        "decap",
        "congestion was marked on a packet whose endpoints do not support ECN (RFC 6040 section 4.2)",
        "the underlay's queues",
    ),
    "bum": Reason(
        "encap",
        "broadcast, unknown unicast or multicast: the overlay does not flood",
        "nothing: every interface sends some",
    ),
    "no_vtep": Reason(
        "encap",
        "no lease holds the destination; the sender gets an ICMP error",
        "a route into the overlay that no lease backs",
    ),
    "overload": Reason(
        "encap",
        "a superframe of more than 128 segments, while the TAP's queue has not run empty for 5 ms",
        "their sender: one pod's small segments would fill the queue that all pods share",
    ),
    "too_big": Reason(
        "encap",
        "the packet is too big for the path to its VTEP and must not be fragmented; the sender gets an ICMP error",
        "docs/mtu.md; narrow paths in `vxlandctl status`",
    ),
    "send_failed": Reason("encap", "the kernel refused the datagram", "the error shown with it; firewall, routes"),
    "send_buffer_full": Reason(
        "encap", "the sending socket's buffer is full", "an underlay that is slower than the pods"
    ),
    "tap_write_failed": Reason(
        "both", "the kernel refused the frame", "the error shown with it; whether the device is up"
    ),
}
"""By the label in metrics, log and documentation."""

QUEUES = {
    "tap_queue_full": Reason(
        "encap",
        "frames at the full TAP queue: the pods sent more than vxland read",
        "`datapath.workers`; the device's `txqueuelen`",
    ),
    "underlay_queue_full": Reason(
        "encap",
        "sends at the full queueing discipline of an underlay interface; includes any program's UDP of this family",
        "`tc -s qdisc`, which counts all of them; an underlay that is slower than the pods",
    ),
    "socket_queue_full": Reason(
        "decap",
        "datagrams, or trains that the kernel counts as one, at full receiving sockets: more arrived than vxland read",
        "`datapath.workers`; a flood: `security.input_filter`",
    ),
    "outer_checksum": Reason(
        "decap",
        "datagrams with a wrong outer UDP checksum, or over IPv6 none; includes any program's UDP of this family",
        "checksum offloads of the NICs (`ethtool -K DEV tx off`, `rx off`); the peer's `udp6zerocsumtx` or"
        " `underlay.ipv6_checksum`; forged senders",
    ),
    "input_filtered": Reason(
        "decap",
        "datagrams of unknown senders that `security.input_filter` dropped",
        "`registry.peers`, if they are from a node of the cluster",
    ),
}
"""The same for drops by the kernel: full queues, bad checksums, the filter in front of the sockets."""
