"""An nftables table that drops datagrams of unknown senders before they wake a process.

Each tunnel has one table, named after its device, with a chain in the input hook, where the fragments of a datagram
have been reassembled. Addresses are in a hashed set, so the cost of a packet does not depend on their number. Prefixes,
of NAT, are in a set of intervals. A change of leases changes its elements and reads nothing. Every check lists the
table, changes the elements that differ, and reads the count of dropped datagrams. If anything else differs from what
was written, or nft refuses a change, the whole table is replaced in one transaction.

The data path checks senders too; this only saves it the work. So a failure is logged once per reason and retried, and
nothing waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Final, Protocol

import structlog

from vxland.firewall.nft_listing import NftTable, Shape
from vxland.firewall.resync import Resync
from vxland.firewall.rules import Family, Flavour
from vxland.firewall.source_sets import HOSTS, PREFIXES, Elements, SourceSets
from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Address, Subnet

_FAMILY: Final = {4: "ip", 6: "ip6"}
_TYPE: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_COUNTER: Final = "foreign"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")

log = structlog.get_logger()


class Nft(Protocol):
    """Access to nf_tables; firewall/programs.py has it. The async methods may raise VxlandError."""

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Return whether the programs of a flavour are installed."""
        ...

    async def nft_table(self, family: str, name: str) -> NftTable | None:
        """Return a table; None if it does not exist."""
        ...

    async def nft(self, script: str) -> None:
        """Run `nft -f`."""
        ...


class InputFilter:
    """The table of one tunnel, which receives at `address` and UDP `port`. Used from one event loop."""

    def __init__(self, nft: Nft, device: str, address: Address, port: int, resync_s: float) -> None:
        self.error = ""
        """The reason why the table may be missing or wrong; empty if it is in force."""
        self.dropped = 0
        """Datagrams that the table has dropped since it was made, as of the last check."""
        self._nft = nft
        self._family = _FAMILY[address.version]
        self._device = device
        self._name = _table_of(device)
        self._version = address.version
        self._addresses: tuple[Address, ...] = (address,)
        self._port = port
        self._wanted: SourceSets | None = None
        self._written: Shape = ()
        """The table as nft listed it after it was written; empty if nothing is known of it."""
        self._resync = Resync(
            partial(self._log_failure, self._check), resync_s, partial(self._log_failure, self._follow)
        )

    def follow(self, withdrawn: Iterable[Subnet], admitted: Iterable[Subnet]) -> Generator[None, None, None]:
        """Accept these senders from now on, no longer those, in steps. At first there is no table."""
        wanted = self._wanted or SourceSets()
        for source in withdrawn:
            wanted.withdraw(source)
            yield
        for source in admitted:
            wanted.admit(source)
            yield
        self._wanted = wanted  # all of it, if it is the first: else nodes would be kept out for a moment
        self._resync.notify()

    def cover(self, public: Address | None) -> None:
        """Filter datagrams to this address too, instead of the one set before; None: to the first address only."""
        self._addresses = self._addresses[:1] + (() if public is None else (public,))
        self._written = ()
        self._resync.notify()

    async def run(self) -> None:
        """Follow each change at once and check every `resync_s` seconds, until cancelled."""
        await self._resync.run()

    async def settle(self) -> bool:
        """Apply the wanted table now; return whether that worked. A failure is logged, and run() retries."""
        await self._resync.apply()
        return not self.error

    async def remove(self) -> None:
        """Remove the table and stop maintaining it. Does not fail."""
        async with self._resync.lock:
            self._wanted = None
            await remove_tables(self._nft, self._device)

    async def _log_failure(self, step: Callable[[SourceSets], Awaitable[None]]) -> None:
        if self._wanted is None:
            return
        try:
            await step(self._wanted)
        except VxlandError as exc:
            error = exc.cause if isinstance(exc, StartError) else str(exc)
            if self.error != error:
                remedy = "fix that, or write security.input_filter: off"
                log.warning("input_filter_failed", error=error, remedy=remedy, retry_s=self._resync.period_s)
            self.error = error
        else:
            self.error = ""

    async def _follow(self, wanted: SourceSets) -> None:
        """Write what has changed, if the last step has left the table as it was wanted then."""
        if self._written and not self.error:
            await self._change(wanted, *wanted.take_changes())
        else:
            await self._check(wanted)

    async def _check(self, wanted: SourceSets) -> None:
        """Compare the table with what is wanted, and restore it."""
        table = await self._nft.nft_table(self._family, self._name)
        if table is not None:
            self.dropped = table.packets.get(_COUNTER, 0)
            have = {name: table.elements.get(name, frozenset()) for name in (HOSTS, PREFIXES)}
            if table.shape == self._written and not any("" in elements for elements in have.values()):
                want = wanted.elements()
                await self._change(wanted, _without(have, want), _without(want, have))
                return
        await self._replace(wanted)

    async def _change(self, wanted: SourceSets, gone: Elements, new: Elements) -> None:
        """Change elements in one transaction; those that go come first, as they may overlap with new ones."""
        lines = [
            f"{verb} element {self._family} {self._name} {name} {{ {', '.join(sorted(elements))} }}\n"
            for verb, some in (("delete", gone), ("add", new))
            for name, elements in some.items()
            if elements
        ]
        if not lines:
            return
        try:
            await self._nft.nft("".join(lines))
        except VxlandError as exc:
            log.debug("input_filter_not_changed", table=self._name, error=str(exc))  # an element is not as it was left
            await self._replace(wanted)

    async def _replace(self, wanted: SourceSets) -> None:
        addresses = self._addresses
        await self._nft.nft(_replaced(self._family, self._name, self._text(wanted.elements())))
        log.info("input_filter_repaired" if self._written else "input_filter_set", table=self._name)
        table = await self._nft.nft_table(self._family, self._name)
        covered = addresses == self._addresses  # cover() may have been called meanwhile
        self._written = table.shape if table is not None and covered else ()
        self.dropped = 0

    def _text(self, wanted: Elements) -> str:
        family, kind = self._family, _TYPE[self._version]
        here = ", ".join(map(str, self._addresses))
        elements = {name: ", ".join(sorted(some)) for name, some in wanted.items()}
        hosts, prefixes = (f"elements = {{ {elements[name]} }}" if elements[name] else "" for name in (HOSTS, PREFIXES))
        return f"""\
table {family} {self._name} {{
	set {HOSTS} {{
		type {kind}
		{hosts}
	}}
	set {PREFIXES} {{
		type {kind}
		flags interval
		{prefixes}
	}}
	counter {_COUNTER} {{
	}}
	chain input {{
		type filter hook input priority filter - 10; policy accept;
		{family} daddr {{ {here} }} udp dport {self._port} {family} saddr != @{HOSTS} {family} saddr != @{PREFIXES} counter name {_COUNTER} drop
	}}
}}
"""  # noqa: E501  (a rule is one line)


async def remove_tables(nft: Nft, device: str) -> bool:
    """Remove the tables of a device, of both underlay families; return whether there were any. Does not fail."""
    found, name = False, _table_of(device)
    if not nft.installed("nftables", 4):
        return False
    for family in _FAMILY.values():
        try:
            if await nft.nft_table(family, name) is not None:
                await nft.nft(_replaced(family, name, ""))
                found = True
        except VxlandError as exc:
            log.debug("input_filter_not_swept", family=family, error=str(exc))  # perhaps a kernel without nf_tables
    return found


def _without(elements: Elements, others: Elements) -> Elements:
    return {name: each - others[name] for name, each in elements.items()}


def _table_of(device: str) -> str:
    return f"vxland-{_UNFIT.sub('_', device)}"


def _replaced(family: str, name: str, text: str) -> str:
    table = f"table {family} {name}"  # added first: deleting a missing table is an error
    return f"add {table}\ndelete {table}\n{text}"
