"""Path of a packet through this node, with reasons: a frame of its flow is decided by the rules of the data path.

The table is the one in force. Encap, Decap and the buffer are created for the trace, so the data path is not affected.
The steps of the kernel before and after are only described: `vxlandctl plan` shows whether its state is as intended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vxland.datapath.datagram import Datagram
from vxland.datapath.decap import Decap
from vxland.datapath.encap import Encap
from vxland.datapath.limits import Limits
from vxland.datapath.owners import Owners
from vxland.datapath.table import Table
from vxland.datapath.verdict import FORWARD, Drop
from vxland.inspect.flow import Flow
from vxland.inspect.reasons import REASONS
from vxland.inspect.side import Side, TracedFastPath
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Address, Lease, Mac, Subnet
from vxland.model.source_check import SourceCheck
from vxland.wire.ethernet import HDR_LEN as ETH_LEN
from vxland.wire.ethernet import mac_at
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header

HEADROOM = 64  # as in forwarding/io/buffers.py: an answer has more headers in front
_UDP_LEN, _IP_LEN = 8, {4: 20, 6: 40}
TTL = 64  # flannel's
NOT_FORWARDED = "not_forwarded"
"""The reason in a trace for packets that the node's own kernel drops; not a drop reason of vxland."""

_NOW_US = 1_000_000  # any time: a new Encap has not used its ICMP errors


class Lost(Protocol):
    """A cause of lost packets that firewall/forward_check.py has found."""

    @property
    def version(self) -> int:
        """The IP version of the lost packets."""
        ...

    @property
    def direction(self) -> str:
        """Their direction: encap, decap or both."""
        ...

    @property
    def proto(self) -> str:
        """The protocol that is lost; empty for all."""
        ...

    @property
    def cause(self) -> str:
        """The cause."""
        ...

    @property
    def remedy(self) -> str:
        """The remedy."""
        ...


@dataclass(frozen=True, slots=True)
class TracedTunnel:
    """Input of a trace: one device and its underlay."""

    device: str
    networks: Sequence[Subnet]
    subnets: Sequence[Subnet]
    mac: Mac
    mtu: int
    vni: int
    carried: OuterHeader
    address: Address
    source_ports: Sequence[int]
    table: Table
    owners: Owners
    limits: Limits
    check_source: SourceCheck
    direct: bool
    fast_path: TracedFastPath
    lost: Sequence[Lost] = ()
    """Reasons why this node's kernel forwards no packets between its pods and the device."""


@dataclass(slots=True)
class Trace:
    """Result of a trace. `verdict`: forward, drop (for `reason`), local (no tunnel needed) or none (no device).

    `outer` has the headers of the datagram that would leave or arrive. `side` is who takes the packet: a program of the
    fast path, or the daemon.
    """

    direction: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    verdict: str = ""
    reason: str = ""
    remedy: str = ""
    outer: dict[str, object] = field(default_factory=dict)
    side: Side = ""

    def say(self, step: str, what: str) -> None:
        """Add a step."""
        self.steps.append((step, what))

    def take(self, side: Side, why: str) -> None:
        """Add the side that takes the packet."""
        self.side = side
        self.say("side", f"{'fast path: a program carries it' if side == 'program' else 'daemon'}; {why}")

    def not_forwarded(self, tunnel: TracedTunnel, flow: Flow) -> bool:
        """End the trace and return true if this node's kernel drops such packets of pods before or after the device."""
        for lost in tunnel.lost:
            is_meant = lost.direction in {"both", self.direction} and lost.proto in {"", flow.proto}
            if is_meant and lost.version == flow.src.version:
                self.verdict, self.reason, self.remedy = "drop", NOT_FORWARDED, lost.remedy
                self.say("forward", lost.cause)
                self.say("drop", f"{NOT_FORWARDED}: this node's kernel drops it")
                return True
        return False

    def end(self, verdict: int) -> None:
        """End with the verdict of the rules."""
        self.verdict = "forward" if verdict == FORWARD else "drop"
        if verdict != FORWARD:
            self.take("daemon", "programs drop and answer nothing")
            self.reason = Drop(verdict).label
            _, happened, self.remedy = REASONS[self.reason]
            self.say("drop", f"{self.reason}: {happened}")


def trace(tunnels: Sequence[TracedTunnel], flow: Flow) -> Trace:
    """Return the path of `flow` through this node, which has the devices `tunnels`."""
    version = flow.dst.version
    tunnel = next((each for each in tunnels if version in {net.version for net in each.networks}), None)
    if tunnel is None:
        found = Trace("none", verdict="none", remedy="the cluster's network, which has none of this family")
        found.say("device", f"no device of this node carries IPv{version}")
        return found
    own_src, own_dst = _holding(tunnel.subnets, flow.src), _holding(tunnel.subnets, flow.dst)
    if own_dst is not None and own_src is not None:
        found = Trace("none", verdict="local")
        found.say("node", f"{flow.src} and {flow.dst} are both in this node's {own_dst}: its bridge carries it")
        return found
    sender = _lease_of(tunnel, flow.src)
    if own_src is None and (own_dst is not None or sender is not None):
        return _decap(tunnel, flow, sender)
    found = Trace("encap")
    if own_src is not None:
        found.say("node", f"{flow.src} is in this node's {own_src}")
        if flow.src != own_src.network_address and found.not_forwarded(tunnel, flow):
            return found
    else:
        found.say(
            "node",
            f"{flow.src} is in no pod subnet of this node and in no lease: this node, or a source that it routes",
        )
    return _encap(tunnel, flow, found)


def _encap(tunnel: TracedTunnel, flow: Flow, found: Trace) -> Trace:
    lease = _lease_of(tunnel, flow.dst)
    found.say("device", f"{tunnel.device} carries IPv{flow.dst.version}, packets of {tunnel.mtu} bytes at most")
    if tunnel.direct:
        found.say("route", "DirectRouting is on: if the VTEP is on this node's own link, packets do not use the tunnel")
    neighbour = (
        lease.vtep.mac.value if lease is not None else tunnel.mac.value
    )  # no VTEP of another node has the latter
    dst_mac = flow.group_mac() or neighbour
    frame = flow.frame(dst_mac, tunnel.mac.value)
    buf = bytearray(HEADROOM) + frame
    hashed = len(tunnel.source_ports) // (2 if tunnel.carried.df == "inherit" else 1)
    encap = Encap(tunnel.vni, hashed, tunnel.carried)
    encap.limits = tunnel.limits
    verdict = encap.encap(buf, HEADROOM, len(frame), tunnel.table, _NOW_US)
    found.say("table", _entry(tunnel, flow.dst, lease))
    if verdict == FORWARD and lease is not None:
        vtep = tunnel.table.vtep_at(encap.vtep)
        found.say("vtep", f"{vtep.address}, whose device has the MAC {vtep.mac}")
        now_mac = mac_at(buf, HEADROOM)
        rewritten = (
            "rewritten to that"
            if now_mac != dst_mac
            else f"as the neighbour entry of {lease.subnet.network_address} has it"
        )
        found.say("mac", f"inner destination {Mac(now_mac)}, {rewritten}")
        port = tunnel.source_ports[encap.port]
        found.say(
            "port", f"the flow's hash takes source port {port}, number {encap.port + 1} of {len(tunnel.source_ports)}"
        )
        most = min(tunnel.mtu, tunnel.limits.inner.get(vtep.address, tunnel.mtu))
        found.take(*tunnel.fast_path.encap(vtep, len(frame) - ETH_LEN, most))
        found.outer = _outer(tunnel, flow, (tunnel.address, port), (vtep.address, tunnel.table.port))
        found.outer["tos"] = encap.marks & 0xFF
        found.outer["ttl"] = encap.marks >> 8 or tunnel.carried.ttl or TTL
        found.outer["df"] = tunnel.carried.df == "set" or encap.port >= hashed
        with_checksum = tunnel.carried.checksum_v6 if tunnel.address.version == 6 else found.side == "daemon"
        found.outer["udp_checksum"] = with_checksum  # programs send none
        found.outer["vxlan_flags"] = buf[HEADROOM - VXLAN_LEN]
        found.outer["payload"] = buf[HEADROOM - VXLAN_LEN :].hex()
    found.end(verdict)
    if encap.answer_len:
        found.say("answer", f"an ICMP error to {flow.src}")
    return found


def _decap(tunnel: TracedTunnel, flow: Flow, sender: Lease | None) -> Trace:
    found = Trace("decap")
    found.say(
        "node", f"{flow.src} is in no subnet of this node: another node sends it, {tunnel.device} decapsulates it"
    )
    found.say("table", _entry(tunnel, flow.src, sender))
    datagram = Datagram()
    if sender is not None:
        datagram.outer_src_hi, datagram.outer_src_lo = divmod(int(sender.vtep.address), 1 << 64)
        address = sender.vtep.address
        found.outer = _outer(tunnel, flow, (address, None), (tunnel.address, tunnel.table.port))
    src_mac = sender.vtep.mac.value if sender is not None else 0
    buf = bytearray(VXLAN_LEN) + flow.frame(tunnel.mac.value, src_mac)
    put_header(buf, 0, tunnel.vni)
    decap = Decap(tunnel.vni, tunnel.mac.value, tunnel.check_source)
    verdict = decap.decap(buf, 0, len(buf), datagram, tunnel.table)
    found.say("header", f"must have the I flag, VNI {tunnel.vni}, and Ethernet inside")
    if tunnel.check_source == SourceCheck.OFF:
        found.say("source", "any sender: security.source_check is off")
    elif sender is not None:
        known = ", ".join(map(str, (sender.vtep.address, *sender.sources)))
        found.say("source", f"{known} is a leased VTEP; datagrams from another address are dropped: unknown_vtep")
    if verdict == FORWARD:
        found.take(
            *tunnel.fast_path.decap(None if sender is None else sender.vtep, len(buf) - VXLAN_LEN - ETH_LEN, tunnel.mtu)
        )
        found.say("inner", f"its lengths must agree, and its source MAC must not be our own, {tunnel.mac}")
        own = _holding(tunnel.subnets, flow.dst)
        if own is not None and flow.dst != own.network_address and found.not_forwarded(tunnel, flow):
            return found
        where = (
            f"in this node's {own}: its bridge carries it on"
            if own
            else "not in this node's subnets: the host's routes decide"
        )
        found.say("host", f"{tunnel.device} gets the packet; {flow.dst} is {where}")
    found.end(verdict)
    return found


def _outer(
    tunnel: TracedTunnel, flow: Flow, src: tuple[Address, int | None], dst: tuple[Address, int]
) -> dict[str, object]:
    """Return the outer headers that a kernel vxlan device with flannel's attributes sends."""
    version = tunnel.address.version
    udp_len = _UDP_LEN + VXLAN_LEN + len(flow.frame(0, 0))
    return {
        "src": str(src[0]),
        "dst": str(dst[0]),
        "version": version,
        "ttl": TTL,
        "tos": 0,
        "df": False,
        "length": _IP_LEN[version] + udp_len,
        "udp_src": src[1],
        "udp_dst": dst[1],
        "udp_length": udp_len,
        "udp_checksum": True,
        "vxlan_flags": 0x08,  # the VNI is valid: RFC 7348 section 5
        "vni": tunnel.vni,
    }


def _lease_of(tunnel: TracedTunnel, address: Address) -> Lease | None:
    """Return the lease that the table's lookup finds."""
    vtep = tunnel.table.lookup(address)
    held = () if vtep is None else tunnel.owners.leases_of(vtep)
    holding = [lease for lease in held if lease.subnet.version == address.version and address in lease.subnet]
    return max(holding, key=lambda lease: lease.subnet.prefixlen, default=None)


def _entry(tunnel: TracedTunnel, address: Address, lease: Lease | None) -> str:
    leases = len(tunnel.owners.leases)
    if lease is None:
        return f"no lease holds {address} (leases: {leases})"
    return f"{address} is in {lease.subnet}, its longest prefix (leases: {leases}), of {lease.vtep}"


def _holding(subnets: Sequence[Subnet], address: Address) -> Subnet | None:
    return next((subnet for subnet in subnets if address in subnet), None)
