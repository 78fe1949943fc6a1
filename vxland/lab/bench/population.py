"""The nodes of a large cluster, which exist only as leases, and how they change. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from vxland.lab.bench import scale
from vxland.model.lease import Lease, Mac, Vtep

STAGES = 4
"""Changes of each node in a storm: new MAC, leave, return with a new MAC, new MAC."""

_GENERATION = 1 << 16  # above the numbers of `scale.leases`, so that each MAC is new and unique


@dataclass(frozen=True, slots=True)
class Edit:
    """One change in the store: the lease is written, or is `gone`."""

    lease: Lease
    gone: bool = False


class Population:
    """`count` nodes."""

    def __init__(self, count: int) -> None:
        self._leases = list(islice(scale.leases(), count))

    @property
    def leases(self) -> Sequence[Lease]:
        """The lease of each node, the last one of a node that left."""
        return self._leases

    def mac(self, number: int) -> Mac:
        """Return the node's latest MAC."""
        return self._leases[number].vtep.mac

    def renewal(self, number: int) -> Edit:
        """Give a node another MAC, as if it recreated its device, or returned."""
        old = self._leases[number]
        self._leases[number] = replace(old, vtep=Vtep(old.vtep.address, Mac(old.vtep.mac.value + _GENERATION)))
        return Edit(self._leases[number])

    def departure(self, number: int) -> Edit:
        """Remove a node."""
        return Edit(self._leases[number], gone=True)

    def storm(self, change: int, hit: int, *, last: bool) -> Edit:
        """Return the storm's change of this number, on one of `hit` nodes; `last`: that node's last change."""
        stage, node = divmod(change, hit)
        leaves = stage % STAGES == 1 and not last  # a node that leaves must return
        return self.departure(node) if leaves else self.renewal(node)
