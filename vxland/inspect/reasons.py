"""What each drop reason means, and what to look at: docs/drops.md says the same, which a test sees to."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One drop: the direction it is counted in, what happened, what to look at."""

    direction: str
    happened: str
    remedy: str


REASONS = {
    "too_short": Reason("decap", "the datagram ends before its VXLAN header does", "who sends to the port"),
    "truncated": Reason(
        "decap",
        "the datagram was longer than the buffer, or came in a train of which no size was told",
        "who sends to the port",
    ),
    "i_flag_clear": Reason("decap", "the header claims no valid VNI (RFC 7348 section 5)", "who sends to the port"),
    "next_protocol": Reason("decap", "VXLAN-GPE with something else than Ethernet inside", "the peer's vxlan device"),
    "wrong_vni": Reason("decap", "another overlay's datagram", "`overlay.vni`, the same on every node"),
    "unknown_vtep": Reason(
        "decap", "the outer source is no leased VTEP", "`registry.peers`; NAT between the nodes; a stranger"
    ),
    "inner_malformed": Reason(
        "both",
        "inner headers contradict themselves, the frame's length or its virtio header",
        "who sends them; pods with packet sockets (docs/security.md)",
    ),
    "own_mac": Reason("decap", "the inner source is our own MAC", "two nodes with one MAC; a loop"),
    "inner_source_foreign": Reason(
        "decap",
        "the inner sender is none of the node's that sent the datagram (`security.source_check: strict`)",
        "who forges; what that node forwards without masquerading it",
    ),
    "ecn_ce": Reason(
        "decap",
        "congestion marked on a packet whose ends don't know ECN (RFC 6040 section 4.2)",
        "the underlay's queues",
    ),
    "bum": Reason(
        "encap",
        "broadcast, unknown or multicast: the overlay has nowhere to flood it",
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
        "who sends them: one pod's small segments would fill the queue that all pods share",
    ),
    "too_big": Reason(
        "encap",
        "its way carries no packet of this size, and it may not be fragmented; the sender gets an ICMP error",
        "docs/mtu.md; `vxlandctl status` shows narrow ways",
    ),
    "send_failed": Reason("encap", "the kernel refused the datagram", "the error beside it; firewall, routes"),
    "send_buffer_full": Reason("encap", "the sending socket has no room", "the underlay is slower than the pods"),
    "tap_write_failed": Reason("both", "the kernel refused the frame", "the error beside it; is the device up?"),
}
"""By the word that metrics, log and documentation have for it."""

QUEUES = {
    "tap_queue_full": Reason(
        "encap",
        "frames, at the TAP: more came from the pods than was read",
        "`datapath.workers`; the device's `txqueuelen`",
    ),
    "underlay_queue_full": Reason(
        "encap",
        "sends, in the queueing discipline of an interface below: any program's UDP of this family counts",
        "`tc -s qdisc`, which counts all of them; the underlay is slower than the pods",
    ),
    "socket_queue_full": Reason(
        "decap",
        "datagrams, or trains that the kernel counts as one, at the receiving sockets: more came than was read",
        "`datapath.workers`; a flood: `security.input_filter`",
    ),
    "outer_checksum": Reason(
        "decap",
        "datagrams whose outer UDP checksum is wrong, or over IPv6 missing; any program's UDP of this family counts",
        "checksum offloads of the NICs (`ethtool -K DEV tx off`, `rx off`); the peer's `udp6zerocsumtx` or"
        " `underlay.ipv6_checksum`; who forges",
    ),
    "input_filtered": Reason(
        "decap",
        "datagrams of unknown senders, refused by `security.input_filter`; with `bpf` at least so many",
        "`registry.peers`, if a node's own are refused",
    ),
}
"""The same for what the kernel drops beside vxland: full queues, bad checksums, the filter before the sockets."""
