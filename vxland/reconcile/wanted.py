"""The wanted state, kept up with changes of leases, and its parts by base address. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from vxland.model.lease import Address, Lease
from vxland.reconcile.plan import Want


class Wanted:
    """The peers' leases by base address, and `device`: a Want for all else, without peers."""

    def __init__(self, device: Want) -> None:
        self.device = device
        self._leases: dict[Address, tuple[Lease, ...]] = {}
        self._vteps: Counter[Address] = Counter()  # leases that may get a direct route, by VTEP address

    @property
    def leases(self) -> Mapping[Address, tuple[Lease, ...]]:
        """The leases by base address. Borrowed: read-only, and changed by put() and drop()."""
        return self._leases

    @property
    def vteps(self) -> Collection[Address]:
        """The VTEPs that packets may reach without the tunnel; none unless direct routes are wanted."""
        return self._vteps.keys()

    @property
    def bases(self) -> dict[Address, None]:
        """Every base address at which something is wanted."""
        return dict.fromkeys(self._leases) | dict.fromkeys(subnet.network_address for subnet in self.device.blackholes)

    def set_device(self, want: Want) -> None:
        """Replace all but the peers."""
        counted, self.device = self.device.direct, want
        if want.direct != counted:
            self._vteps.clear()
            for held in self._leases.values():
                self._count(held, 1)

    def put(self, lease: Lease) -> Address:
        """Add a lease, in place of another on its subnet; return its base address."""
        base = lease.subnet.network_address
        here = self._leases.get(base, ())
        self._count([other for other in here if other.subnet == lease.subnet], -1)
        self._leases[base] = (*(other for other in here if other.subnet != lease.subnet), lease)
        self._count([lease], 1)
        return base

    def drop(self, lease: Lease) -> Address:
        """Remove a lease, unless another has its subnet by now; return its base address."""
        base = lease.subnet.network_address
        here = self._leases.get(base, ())
        if lease in here:
            self._count([lease], -1)
            if left := tuple(other for other in here if other != lease):
                self._leases[base] = left
            else:
                del self._leases[base]
        return base

    def part(self, bases: Collection[Address]) -> Want:
        """Return the Want for these base addresses."""
        leases = self._leases
        return replace(
            self.device,
            peers=frozenset([lease for base in bases for lease in leases.get(base, ())]),
            blackholes=tuple([s for s in self.device.blackholes if s.network_address in bases]),
        )

    def bases_of(self, vteps: Collection[Address]) -> Iterable[Address]:
        """Return the base addresses of the leases that have these VTEPs."""
        return [base for base, held in self._leases.items() if any(lease.vtep.address in vteps for lease in held)]

    def _count(self, leases: Iterable[Lease], by: int) -> None:
        for lease in leases if self.device.direct else ():
            vtep = lease.vtep.address
            if vtep.version == lease.subnet.version:
                self._vteps[vtep] += by
                if not self._vteps[vtep]:
                    del self._vteps[vtep]
