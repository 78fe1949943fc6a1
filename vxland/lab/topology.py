"""The walk-through's two nodes and four pods, with the addresses and MACs that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, TypeAlias

from vxland.model.lease import Mac

Kind: TypeAlias = Literal["vxland", "kernel"]
LabRegistry: TypeAlias = Literal["static", "etcd"]

NETWORK = IPv4Network("10.244.0.0/16")
VNI = 1
PORT = 8472
UNDERLAY_MTU = 1500
OVERLAY_MTU = UNDERLAY_MTU - 50  # outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14
UNDERLAY, BRIDGE, OVERLAY = "ens33", "cni0", "flannel.1"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod: a namespace with eth0, whose peer is a port of the node's bridge."""

    letter: str
    address: IPv4Address
    mac: Mac
    port: str
    """The node's end of the veth pair."""

    @property
    def title(self) -> str:
        """The name in the output."""
        return f"pod {self.letter}"

    @property
    def namespace(self) -> str:
        """The last part of its namespace's name."""
        return f"pod-{self.letter.lower()}"


@dataclass(frozen=True, slots=True)
class LabNode:
    """One node: underlay address, bridge, VTEP and pods."""

    number: int
    underlay: IPv4Address
    underlay_mac: Mac
    subnet: IPv4Network
    bridge_mac: Mac
    vtep_mac: Mac
    pods: tuple[Pod, Pod]

    @property
    def title(self) -> str:
        """The name in the output."""
        return f"node {self.number}"

    @property
    def namespace(self) -> str:
        """The last part of its namespace's name."""
        return f"node{self.number}"

    @property
    def gateway(self) -> IPv4Address:
        """The address of cni0: the pods' default route."""
        return self.subnet[1]

    @property
    def vtep_address(self) -> IPv4Address:
        """The address of flannel.1: the subnet's network address, as a /32."""
        return self.subnet.network_address


NODES = (
    LabNode(
        number=1,
        underlay=IPv4Address("192.168.111.128"),
        underlay_mac=Mac.parse("00:0c:29:49:39:91"),
        subnet=IPv4Network("10.244.0.0/24"),
        bridge_mac=Mac.parse("e6:62:4d:8e:51:21"),
        vtep_mac=Mac.parse("ce:5f:f6:73:cf:b9"),
        pods=(
            Pod("A", IPv4Address("10.244.0.19"), Mac.parse("a6:72:78:4a:0b:72"), "veth-a"),
            Pod("B", IPv4Address("10.244.0.18"), Mac.parse("a6:72:78:4a:0b:71"), "veth-b"),
        ),
    ),
    LabNode(
        number=2,  # the walk-through shows only the VTEP's MAC; the others are invented
        underlay=IPv4Address("192.168.111.129"),
        underlay_mac=Mac.parse("00:0c:29:49:39:92"),
        subnet=IPv4Network("10.244.1.0/24"),
        bridge_mac=Mac.parse("e6:62:4d:8e:51:22"),
        vtep_mac=Mac.parse("3a:87:cf:81:6a:ce"),
        pods=(
            Pod("C", IPv4Address("10.244.1.13"), Mac.parse("a6:72:78:4a:0b:73"), "veth-c"),
            Pod("D", IPv4Address("10.244.1.14"), Mac.parse("a6:72:78:4a:0b:74"), "veth-d"),
        ),
    ),
)

(POD_A, POD_B), (POD_C, POD_D) = NODES[0].pods, NODES[1].pods


def other(node: LabNode) -> LabNode:
    """Return the node at the other end of the underlay link."""
    return NODES[2 - node.number]
