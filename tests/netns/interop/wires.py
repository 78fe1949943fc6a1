"""Kinds of wire between the nodes: a plain veth pair, or one that only carries packets of the MTU, as most NICs do.

A veth pair carries superframes of 64 KiB that are neither cut nor summed, in tunnels too.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from .ns import Ns

Wire: TypeAlias = Literal["veth", "mtu-sized"]
WIRES: Final[tuple[Wire, Wire]] = ("veth", "mtu-sized")

_SEGMENTATION: Final = ("tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")


def send_only_mtu_sized(ns: Ns) -> None:
    """Let e0 of a namespace send no superframes, and join received packets as the driver of a NIC does."""
    ns.run("ethtool", "-K", "e0", *(word for feature in _SEGMENTATION for word in (feature, "off")), "gro", "on")
