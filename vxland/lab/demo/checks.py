"""The closing table: each check examines the evidence of one step and reports what was there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vxland.lab.cni import Network
from vxland.lab.demo.decode import DecodedPacket
from vxland.lab.demo.evidence import Across, DaemonFacts, DemoEvidence, DeviceFacts, FullSize, Hop, SameNode
from vxland.lab.demo.layout import FLAG_I
from vxland.lab.etcd import CONFIG_KEY, PREFIX, lease_key, lease_value
from vxland.lab.topology import (
    BRIDGE,
    NODES,
    OVERLAY,
    OVERLAY_MTU,
    POD_A,
    POD_B,
    POD_C,
    PORT,
    UNDERLAY,
    UNDERLAY_MTU,
    VNI,
    LabNode,
)
from vxland.lab.traffic import Ping, Throughput


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the closing table."""

    name: str
    passed: bool
    detail: str


def judge(evidence: DemoEvidence) -> list[Check]:
    """Return every check except those of `removed`, which run after the lab is removed."""
    return [
        *_leases(evidence),
        *_attached(evidence.network),
        *(_device(device) for device in evidence.devices),
        *_same_node(evidence.same),
        *_across(evidence.across),
        _full_size(evidence.full),
        _throughput(f"TCP, {POD_A.title} to {POD_C.title}", evidence.there),
        _throughput(f"TCP, {POD_C.title} to {POD_A.title}", evidence.back),
        _counting(evidence),
        *(_alive(daemon) for daemon in evidence.daemons),
        *_detached(evidence.detached),
    ]


def removed(codes: dict[str, int], remains: list[str]) -> list[Check]:
    """Return the last checks: every vxland ended when asked, and nothing of the demo is left."""
    left = f"still there: {', '.join(remains)}" if remains else "every namespace and file of this demo is gone"
    return [
        *(Check(f"{name}: vxland ends when asked", code == 0, f"exit code {code}") for name, code in codes.items()),
        Check("nothing is left behind", not remains, left),
    ]


def _device(device: DeviceFacts) -> Check:
    node = device.node
    mtu, mac, address = {
        UNDERLAY: (UNDERLAY_MTU, node.underlay_mac, f"{node.underlay}/24"),
        OVERLAY: (OVERLAY_MTU, node.vtep_mac, f"{node.vtep_address}/32"),
        BRIDGE: (OVERLAY_MTU, node.bridge_mac, f"{node.gateway}/{node.subnet.prefixlen}"),
    }[device.name]
    want = (True, mtu, str(mac), (address,))
    found = (device.up, device.mtu, device.mac, device.addresses)
    detail = f"MTU {device.mtu}, {device.mac}, {', '.join(device.addresses) or 'no address'}"
    if not device.mtu:
        detail = device.text or "missing"
    elif found != want:
        detail += f"{'' if device.up else ', down'}; expected MTU {mtu}, {mac}, {address}, up"
    return Check(f"{node.title}: {device.name}", found == want, detail)


def _leases(evidence: DemoEvidence) -> Iterator[Check]:
    """Check that etcd has each node's lease as flannel writes it: a reserved one without TTL, others with a day."""
    if evidence.leases is None:
        return
    found = {record.key: record for record in evidence.leases}
    for node, kind in zip(evidence.nodes, evidence.kinds, strict=True):
        key, value = lease_key(node.subnet), lease_value(node.underlay, node.vtep_mac)
        record = found.pop(key, None)
        right = record is not None and record.value == value and bool(record.lease) == (kind == "kernel")
        form = "no such key" if record is None else f"{'with a TTL' if record.lease else 'reserved'}, {record.value}"
        yield Check(f"etcd: the lease of {node.title}", right, f"{key}: {form}{'' if right else f'; expected {value}'}")
    stray = sorted(set(found) - {CONFIG_KEY})
    yield Check("etcd: no other lease", not stray, ", ".join(stray) or f"only these under {PREFIX}")


def _attached(network: Network | None) -> Iterator[Check]:
    for one in network.pods if network else ():
        node, pod = one.node, one.pod
        want = (OVERLAY_MTU, (f"{pod.address}/{node.subnet.prefixlen}",), str(node.gateway), True)
        found = (one.mtu, one.addresses, one.gateway, one.hairpin)
        detail = f"{', '.join(one.addresses)}, MTU {one.mtu}, default via {one.gateway or 'nothing'}, port {pod.port}"
        right = found == want and pod.address in node.subnet
        yield Check(f"{pod.title}: attached by CNI", right, f"{detail}{'' if one.hairpin else ', hairpin off'}")


def _detached(pods: Mapping[str, str]) -> Iterator[Check]:
    for title, left in pods.items():
        detail = f"still there: {left}" if left else "veth gone, address free"
        yield Check(f"{title}: detached by CNI", not left, detail)


def _same_node(same: SameNode) -> Iterator[Check]:
    yield _no_loss(f"one node: {POD_A.title} pings {POD_B.title}", same.ping, ttl=64)
    bridged = len(same.bridge.of_ping)
    yield Check(f"one node: packets cross {BRIDGE}", bridged > 0, f"{bridged} echo packets")
    stray = same.overlay.seen
    yield Check(f"one node: none reaches {OVERLAY}", not stray, f"{len(stray)} packets of any kind")


def _no_loss(name: str, ping: Ping, ttl: int) -> Check:
    if not ping.complete:
        return Check(name, passed=False, detail=ping.output or "ping printed nothing")
    detail = f"{ping.received} of {ping.sent} answered, ttl {_listed(ping.ttls)}"
    return Check(name, set(ping.ttls) == {ttl}, detail)


def _across(across: Across) -> Iterator[Check]:
    yield _no_loss(f"two nodes: {POD_A.title} pings {POD_C.title}", across.ping, ttl=62)
    requests = [one.packet for one in across.requests() if one]
    replies = [one.packet for one in across.replies() if one]
    complete = len(requests) == len(replies) == len(across.hops)
    same = complete and len({_identity(packet) for packet in requests}) == 1
    yield Check(
        "two nodes: the same packet at every hop",
        same,
        f"id {across.ident}, seq {across.seq}: request at {len(requests)} and reply at {len(replies)} "
        f"of {len(across.hops)} devices{'' if same or not complete else ', but not the same bytes'}",
    )
    if not complete:
        return
    there, back = (
        [packet.innermost.ipv4.ttl for packet in packets if packet.innermost.ipv4] for packets in (requests, replies)
    )
    yield Check(
        "two nodes: each node takes 1 off the TTL",
        there == [64, 63, 63, 63, 62, 62] and back == [62, 63, 63, 63, 64, 64],
        f"request {_listed(there)}; reply {_listed(back[::-1])}",
    )
    yield from _wire("request", requests[2], *NODES)
    yield from _wire("reply", replies[2], *reversed(NODES))


def _identity(packet: DecodedPacket) -> tuple[object, ...]:
    """Return the fields of a packet between pods that no router may change."""
    ipv4, icmp = packet.innermost.ipv4, packet.innermost.icmp
    return (ipv4.src, ipv4.dst, ipv4.ident, ipv4.dont_fragment, ipv4.total_len, icmp) if ipv4 else ()


def _wire(what: str, packet: DecodedPacket, sender: LabNode, receiver: LabNode) -> Iterator[Check]:
    """Check one direction on the underlay: outer addresses, port, VXLAN header, and the MACs inside."""
    ipv4, udp, vxlan, inner = packet.ipv4, packet.udp, packet.vxlan, packet.inner
    if not (ipv4 and udp and vxlan and inner and inner.ethernet):
        yield Check(f"{what}: VXLAN on {UNDERLAY}", passed=False, detail="not a VXLAN datagram with a frame in it")
        return
    yield Check(
        f"{what}: outer addresses and port",
        (ipv4.src, ipv4.dst, udp.dst_port) == (sender.underlay, receiver.underlay, PORT),
        f"{ipv4.src}:{udp.src_port} > {ipv4.dst}:{udp.dst_port}",
    )
    yield Check(
        f"{what}: outer TTL 64, DF clear",
        ipv4.ttl == 64 and not ipv4.dont_fragment and not ipv4.fragment and ipv4.checksum == "ok",
        f"TTL {ipv4.ttl}, DF {'set' if ipv4.dont_fragment else 'clear'}, header checksum {ipv4.checksum}",
    )
    summed = {
        "ok": "right",
        "unfilled": "left to the device: tcpdump calls it bad",
        "zero": "absent, but flannel switches it on",
        "bad": "wrong",
    }[udp.checksum]
    yield Check(
        f"{what}: outer UDP checksum", udp.checksum in {"ok", "unfilled"}, f"0x{udp.checksum_value:04x}, {summed}"
    )
    yield Check(
        f"{what}: VXLAN header",
        (vxlan.flags, vxlan.vni, vxlan.reserved) == (FLAG_I, VNI, 0),
        f"flags 0x{vxlan.flags:02x}, VNI {vxlan.vni}, reserved bits {vxlan.reserved or 'zero'}",
    )
    macs = inner.ethernet
    yield Check(
        f"{what}: inner MACs are the VTEPs'",
        (macs.src, macs.dst) == (sender.vtep_mac, receiver.vtep_mac),
        f"{macs.src} > {macs.dst}",
    )


def _full_size(full: FullSize) -> Check:
    name = f"full size: {OVERLAY_MTU} bytes with DF"
    ping, sizes = full.ping, sorted(set(_sizes(full.underlay)))
    if not ping.complete:
        return Check(name, passed=False, detail=ping.output or "ping printed nothing")
    detail = f"{ping.received} of {ping.sent} answered; {_listed(sizes)} bytes on {UNDERLAY}"
    return Check(name, sizes == [UNDERLAY_MTU], detail)


def _sizes(hop: Hop) -> list[int]:
    """Return the lengths of the outer packets that carry the ping, fragments included."""
    return [one.packet.ipv4.total_len for one in hop.seen if one.packet.ipv4]


def _throughput(name: str, tcp: Throughput) -> Check:
    return Check(name, tcp.gbit_s > 0, tcp.error or f"{tcp.gbit_s:.2f} Gbit/s, {tcp.retransmits} retransmits")


def _counting(evidence: DemoEvidence) -> Check:
    pairs = list(zip(evidence.before, evidence.after, strict=True))
    counting = all(old.rx_packets < new.rx_packets and old.tx_packets < new.tx_packets for old, new in pairs)
    detail = "; ".join(
        f"{new.node.title} rx {new.rx_packets:,} ({_size(new.rx_bytes)}) tx {new.tx_packets:,} ({_size(new.tx_bytes)})"
        for _, new in pairs
    )
    return Check(f"{OVERLAY} counts what it carries", counting, detail)


def _alive(daemon: DaemonFacts) -> Check:
    detail = f"process {daemon.pid}"
    if daemon.code is not None:
        detail = f"ended with exit code {daemon.code}: {daemon.log_tail}"
    return Check(f"{daemon.title}: vxland runs to the end", daemon.code is None, detail)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    """Return the number if all are equal, else all in order."""
    return ", ".join(str(number) for number in (numbers if len(set(numbers)) > 1 else numbers[:1])) or "none"
