"""Evidence of a walk-through without a fault, made of the walk-through's own packets."""

from __future__ import annotations

from dataclasses import replace

from vxland.lab.cni import Attached, Network
from vxland.lab.demo.capture import Seen
from vxland.lab.demo.decode import decode
from vxland.lab.demo.evidence import (
    Across,
    DaemonFacts,
    DemoEvidence,
    DeviceCounters,
    DeviceFacts,
    FullSize,
    Hop,
    SameNode,
)
from vxland.lab.etcd import StoredLease, lease_key, lease_value
from vxland.lab.topology import BRIDGE, NODES, OVERLAY, OVERLAY_MTU, UNDERLAY, UNDERLAY_MTU, LabNode
from vxland.lab.traffic import Ping, Throughput

IDENT, SEQ = 20, 47
PAYLOAD = bytes.fromhex("788e50d5") + bytes(52)
MACS = {node.number: node.vtep_mac.value.to_bytes(6, "big") for node in NODES}


def checksum(content: bytes) -> bytes:
    """Return the RFC 1071 checksum over whole words."""
    total = sum(int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2, "big")


def ipv4(protocol: int, ttl: int, addresses: str, payload: bytes) -> bytes:
    """Return an IPv4 packet; `addresses` are source and destination in hexadecimal."""
    head = bytes.fromhex("4500") + (20 + len(payload)).to_bytes(2, "big") + bytes(4) + bytes((ttl, protocol))
    tail = bytes.fromhex(addresses)
    return head + checksum(head + tail) + tail + payload


def echo(kind: int, ttl: int, macs: bytes) -> bytes:
    """Return the walk-through's echo request (8) or reply (0) between pods A and C, as a frame."""
    head = bytes((kind, 0)), IDENT.to_bytes(2, "big") + SEQ.to_bytes(2, "big") + PAYLOAD
    addresses = "0af40013 0af4010d" if kind == 8 else "0af4010d 0af40013"
    return macs + b"\x08\x00" + ipv4(1, ttl, addresses, head[0] + checksum(head[0] + head[1]) + head[1])


def wrapped(kind: int, frame: bytes) -> bytes:
    """Return the frame after VXLAN, UDP (checksum left to the device) and IPv4, on the underlay."""
    addresses = "c0a86f80 c0a86f81" if kind == 8 else "c0a86f81 c0a86f80"
    datagram = bytes.fromhex("ec98 2118 0072 60d6 0800000000000100") + frame
    return bytes(12) + b"\x08\x00" + ipv4(17, 64, addresses, datagram)


def seen(frame: bytes) -> Seen:
    """Return the frame as a capture returns it."""
    return Seen(frame, decode(frame), 0)


def hop(title: str, device: str, ttls: tuple[int, int]) -> Hop:
    """Return a device that saw the request and the reply with these TTLs."""
    frames = [
        echo(8, ttls[0], MACS[2] + MACS[1]),
        echo(0, ttls[1], MACS[1] + MACS[2]),
    ]
    if device == UNDERLAY:
        frames = [wrapped(kind, frame) for kind, frame in zip((8, 0), frames, strict=True)]
    return Hop(title, device, tuple(seen(frame) for frame in frames))


def device(node: LabNode, name: str) -> DeviceFacts:
    """Return one device in its correct state."""
    mtu, mac, address = {
        UNDERLAY: (UNDERLAY_MTU, node.underlay_mac, f"{node.underlay}/24"),
        OVERLAY: (OVERLAY_MTU, node.vtep_mac, f"{node.vtep_address}/32"),
        BRIDGE: (OVERLAY_MTU, node.bridge_mac, f"{node.gateway}/24"),
    }[name]
    return DeviceFacts(node, name, f"{name}: mtu {mtu}", up=True, mtu=mtu, mac=str(mac), addresses=(address,))


def ping(ttl: int) -> Ping:
    """Return three requests with three answers."""
    return Ping("ping", f"ttl={ttl}", 3, 3, (ttl, ttl, ttl))


def walk() -> DemoEvidence:
    """Return a walk-through without a fault."""
    hops = (
        *(hop("node 1", BRIDGE, (64, 62)), hop("node 1", OVERLAY, (63, 63)), hop("node 1", UNDERLAY, (63, 63))),
        *(hop("node 2", OVERLAY, (63, 63)), hop("node 2", BRIDGE, (62, 64)), hop("pod C", "eth0", (62, 64))),
    )
    full = decode(bytes(12) + b"\x08\x00" + ipv4(17, 64, "c0a86f80 c0a86f81", bytes(1480)))
    return DemoEvidence(
        kinds=("vxland", "kernel"),
        devices=tuple(device(node, name) for node in NODES for name in (UNDERLAY, OVERLAY, BRIDGE)),
        same=SameNode(ping(64), hop("node 1", BRIDGE, (64, 64)), Hop("node 1", OVERLAY, ())),
        across=Across(ping(62), hops, IDENT, SEQ),
        full=FullSize(ping(62), Hop("node 1", UNDERLAY, (Seen(b"", full, 0),))),
        there=Throughput(1.5, 0),
        back=Throughput(1.25, 3),
        before=tuple(DeviceCounters(node, 0, 0, 0, 0) for node in NODES),
        after=tuple(DeviceCounters(node, 1, 1500, 1, 1500) for node in NODES),
        daemons=(DaemonFacts("node 1", 4711, None, ""),),
    )


def extended_walk() -> DemoEvidence:
    """Return the same walk over etcd, with pods attached by CNI plugins."""
    left, right = NODES
    leases = (
        StoredLease("/coreos.com/network/config", "{}", 0),
        StoredLease(lease_key(left.subnet), lease_value(left.underlay, left.vtep_mac), 0),
        StoredLease(
            lease_key(right.subnet), lease_value(right.underlay, right.vtep_mac), 4711
        ),  # the kernel's, as flannel sets it
    )
    pods = tuple(
        Attached(node, pod, OVERLAY_MTU, (f"{pod.address}/24",), str(node.gateway), hairpin=True)
        for node in NODES
        for pod in node.pods
    )
    network = Network("FLANNEL_MTU=1450\n", {"type": "bridge"}, pods)
    return replace(walk(), leases=leases, network=network, detached={"pod A": ""})
