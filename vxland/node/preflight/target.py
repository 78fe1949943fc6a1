"""A device that vxland has, or would make on this machine, as the rules of the preflight need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from vxland.config import Settings
from vxland.model.kernel_state import Underlay
from vxland.model.lease import Address, Subnet
from vxland.node.plane import Plane


@dataclass(frozen=True, slots=True)
class Target:
    """One device: its settings, and what is known about the node."""

    settings: Settings
    underlay: Underlay
    mtu: int
    own: tuple[Subnet, ...]
    """This node's subnets of the device; empty while the registry has not assigned any."""

    vteps: tuple[Address, ...] = ()
    """VTEPs of other nodes, as far as they are known."""

    @classmethod
    def of(cls, plane: Plane) -> Self:
        """Return that of an open device."""
        vteps = tuple(vtep.address for vtep in plane.workers.table.vteps)
        return cls(plane.settings, plane.underlay, plane.mtu, plane.own, vteps)

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.settings.device
