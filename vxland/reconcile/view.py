"""The wanted state beside the record of the kernel's: what is stale is read, and what may differ is planned.

Only base addresses that are dirty are compared: those of leases that have changed, and those that an event names. The
record is filled by a full read: at first, when a reader asks for it, when events were lost, or when one says too
little. All else is folded in from the events, our own ones too: the kernel delivers those before it acknowledges an
action, so that after apply() the record is what the kernel has, and no guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from vxland.model.actions import Action
from vxland.model.errors import VxlandError
from vxland.model.kernel_state import Have, KernelChanges, Neighbour, Route
from vxland.model.lease import Address, Change, Subnet
from vxland.reconcile.plan import Want, plan_device, plan_peers
from vxland.reconcile.record import Record
from vxland.reconcile.wanted import Wanted

_SLICE: Final = 64  # base addresses that are planned, or events that are folded, before other tasks run: 1 ms


class OverlayKernel(Protocol):
    """The part of the kernel that is reconciled; implemented by netlink/client.py. Methods may raise VxlandError."""

    async def read_device(self, device: str) -> Have:
        """Return link and addresses of a device."""
        ...

    async def scan(
        self, device: str, index: int, networks: Sequence[Subnet], found: Callable[[Route | Neighbour], None]
    ) -> None:
        """Call `found` with each route on the device or into `networks`, and each neighbour on the device."""
        ...

    async def on_link(self, vteps: Collection[Address], overlay: int) -> dict[Address, str]:
        """Return those of `vteps` that packets reach without a gateway and not over `overlay`, with the interface."""
        ...

    def watch(self, device: str, index: int, networks: Sequence[Subnet], *, underlay: bool) -> bool:
        """Collect events about what scan() and, if `underlay`, on_link() find. Return whether that was so before."""
        ...

    async def changes(self) -> KernelChanges:
        """Return what has changed since the last call, by any program."""
        ...

    async def apply(self, actions: Sequence[Action]) -> dict[Action, VxlandError]:
        """Carry out actions in order, each on its own, and return the failed ones."""
        ...

    async def wait_change(self) -> None:
        """Return after a change by others since the last call of this or of changes()."""
        ...


class View:
    """The wanted state and the record of `kernel`, and where they may differ. A read that fails leaves all stale."""

    def __init__(self, kernel: OverlayKernel, want: Want) -> None:
        self.reads = 0
        """Full reads since start."""
        self._kernel = kernel
        self._wanted = Wanted(want)
        self._record = Record(want.device, self._wanted.leases)
        self._dirty = self._wanted.bases
        self._look_up: set[Address] = set()  # VTEPs that are new
        self._all_stale = True
        self._device_stale = self._paths_stale = False

    @property
    def have(self) -> Have:
        """The device and on_link, as last read; without routes and neighbours."""
        return self._record.part(())

    @property
    def is_dirty(self) -> bool:
        """Whether anything may differ that no comparison has seen."""
        return bool(self._dirty or self._all_stale or self._device_stale or self._paths_stale)

    def set_device(self, want: Want) -> None:
        """Replace all but the peers."""
        old = self._wanted.device
        self._wanted.set_device(want)
        scope, before = ((each.device, each.networks, each.former, each.watched, each.direct) for each in (want, old))
        self._all_stale |= scope != before
        self._mark(address.ip for address in want.addresses ^ old.addresses)  # plan_peers() leaves out peers on these
        self._mark(subnet.network_address for subnet in {*want.blackholes} ^ {*old.blackholes})

    def follow(self, change: Change) -> Generator[None, None, None]:
        """Replace leases of peers, as work for in_slices(): at each step one subnet has its new lease."""
        vteps = self._wanted.vteps
        for lease in change.added:
            self._dirty[self._wanted.put(lease)] = None
            if lease.vtep.address in vteps:
                self._look_up.add(lease.vtep.address)
            yield
        for lease in change.removed:
            self._dirty[self._wanted.drop(lease)] = None
            if lease.vtep.address not in vteps:
                self._record.on_link.pop(lease.vtep.address, None)
            yield

    def distrust(self) -> None:
        """Read everything before the next comparison."""
        self._all_stale = True

    def distrust_device(self) -> None:
        """Read link and addresses before the next comparison."""
        self._device_stale = True

    async def plan_device(self) -> list[Action]:
        """Return the actions for link and addresses, after a read of these if they are stale."""
        await self.fold()
        if self._device_stale or self._all_stale:
            have = await self._kernel.read_device(self._wanted.device.device)
            self._all_stale |= self._record.set_device(have)
            self._device_stale = False
        return plan_device(self._wanted.device, self.have)

    async def refresh(self) -> bool:
        """Read what else is stale; return whether that was everything, which makes every base address dirty."""
        if self._all_stale:
            self._all_stale = self._paths_stale = False
            self._look_up = set()
            try:
                self._record = await self._read()
            except BaseException:
                self._all_stale = True
                raise
            self.reads += 1
            self._dirty |= self._wanted.bases | self._record.bases
            return True
        new, self._look_up = self._look_up, set()
        if self._paths_stale:
            self._paths_stale, before = False, self._record.on_link
            self._record.on_link = await self._on_link(self._wanted.vteps)
            moved = {vtep for vtep, _ in before.items() ^ self._record.on_link.items()}
            self._mark(self._wanted.bases_of(moved) if moved else ())
        elif new:
            found = await self._on_link(new)
            for vtep in new:
                self._record.on_link.pop(vtep, None)
            self._record.on_link |= found
        return False

    async def fold(self) -> None:
        """Fold the events that have come into the record."""
        changes = await self._kernel.changes()
        self._all_stale |= changes.everything
        self._device_stale |= changes.device
        self._paths_stale |= changes.paths
        changes.events.reverse()
        while changes.events:  # one by one: to free thousands at once takes long
            event = changes.events.pop()
            if not changes.everything and (base := self._record.fold(event)) is not None:
                self._dirty[base] = None
            if len(changes.events) % _SLICE == 0:
                await asyncio.sleep(0)
        self._all_stale |= self._record.unsure

    def take_dirty(self) -> dict[Address, None]:
        """Return the base addresses that may differ, for compare()."""
        taken, self._dirty = self._dirty, {}
        return taken

    def compare(self, bases: Iterable[Address]) -> Iterator[tuple[list[Address], list[Action]]]:
        """Yield some of the base addresses, and the actions for them; the caller rests between."""
        for part in _slices(bases):
            for base in part:
                self._dirty.pop(base, None)
            yield part, plan_peers(self._wanted.part(part), self._record.part(part))

    async def preview(self) -> list[Action]:
        """Read everything apart from the record, and return the actions that are needed; the record stays as it is."""
        wanted, device = self._wanted, self._wanted.device
        have = await self._kernel.read_device(device.device)
        fresh = await self._scan(have)
        actions = plan_device(device, have)
        for part in _slices(wanted.bases | fresh.bases):
            actions += plan_peers(wanted.part(part), fresh.part(part))
            await asyncio.sleep(0)
        return actions

    async def _read(self) -> Record:
        """Read everything. Events that come meanwhile are folded in later."""
        want = self._wanted.device
        while True:
            await self._kernel.changes()  # older than what is read below
            have = await self._kernel.read_device(want.device)
            index = 0 if have.link is None else have.link.index
            if self._kernel.watch(want.device, index, want.watched, underlay=want.direct):
                return await self._scan(have)

    async def _scan(self, have: Have) -> Record:
        want = self._wanted.device
        record = Record(want.device, self._wanted.leases)
        record.set_device(have)
        if have.link is not None:
            await self._kernel.scan(want.device, have.link.index, want.watched, record.add)
            record.on_link = await self._kernel.on_link(tuple(self._wanted.vteps), have.link.index)
        return record

    async def _on_link(self, vteps: Collection[Address]) -> dict[Address, str]:
        link = self._record.link
        return {} if link is None else await self._kernel.on_link(tuple(vteps), link.index)

    def _mark(self, bases: Iterable[Address]) -> None:
        self._dirty.update(dict.fromkeys(bases))


def _slices(bases: Iterable[Address]) -> Iterator[list[Address]]:
    left = iter(bases)
    while part := list(islice(left, _SLICE)):
        yield part
