"""The two kinds of underlay: a veth pair as it is, and one that only packets of the MTU cross.

Over `veth` the kernel's device and vxland hand on superframes and trains whole, as on one host with kind or compose,
and as above a network card with tunnel segmentation. Over `wire` each is cut before it crosses, as above a network card
without. Subjects compare only on the same wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, NODES, UNDERLAY, UNDERLAY_MTU

VETH, WIRE = "veth", "wire"
TITLES: Final[Mapping[str, str]] = {
    VETH: "Veth: superframes and trains cross whole",
    WIRE: "Wire: only packets of the MTU cross",
}
OVERHEAD = 50  # bytes of outer IPv4, UDP and VXLAN and of inner Ethernet
PACKAGES = {"ethtool": "ethtool"}
_CUT = ("tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")


def set_up(lab: Lab, wire: str, mtu: int) -> None:
    """Make the underlay of a fresh lab this kind of wire, and give underlay, bridges and pods the MTUs that follow."""
    for node in NODES:
        inside = lab.namespace(node)
        if wire == WIRE:
            off = (word for feature in _CUT for word in (feature, "off"))
            shell.run(*shell.exec_in(inside, "ethtool", "-K", UNDERLAY, *off, "gro", "on"))
        if mtu != UNDERLAY_MTU:
            ports = [f"link set {name} mtu {mtu - OVERHEAD}" for name in (*(pod.port for pod in node.pods), BRIDGE)]
            shell.ip_batch(inside, [f"link set {UNDERLAY} mtu {mtu}", *ports])
            for pod in node.pods:
                shell.ip_batch(lab.namespace(pod), [f"link set eth0 mtu {mtu - OVERHEAD}"])
