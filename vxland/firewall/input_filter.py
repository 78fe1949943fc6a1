"""Keeps an nftables table that drops datagrams of strangers before they wake anybody up.

One table for each tunnel, named after its device, with a chain in the input hook, where the fragments of a datagram
have been put together. Addresses are in a hashed set, so that a packet's way does not depend on their number; prefixes,
of NAT, in one of intervals. A change of leases changes elements; whatever else differs from what was written, the
table is replaced whole, in one transaction. What a look finds it also counts from.

The data path checks senders all the same: this only spares it the work. So a failure is told once per reason and tried
again, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

import structlog

from vxland.firewall.rules import Family, Flavour
from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Address, Subnet

_FAMILY: Final = {4: "ip", 6: "ip6"}
_TYPE: Final = {4: "ipv4_addr", 6: "ipv6_addr"}
_COUNTS: Final = re.compile(r"packets (\d+) bytes \d+")
_SET: Final = re.compile(r"set (\w+) \{[^}]*?elements = \{([^}]*)\}")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")

log = structlog.get_logger()


class Nft(Protocol):
    """What keeping the table needs; firewall/programs.py has it. The async methods may raise VxlandError."""

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Whether the programs of a flavour are there."""
        ...

    async def nft_table(self, family: str, name: str) -> str:
        """What nft lists of a table; "" where there is none."""
        ...

    async def nft(self, script: str) -> None:
        """Run `nft -f`."""
        ...


class InputFilter:
    """The table of one tunnel, whose datagrams come to `address` and `port`. Used from one event loop."""

    def __init__(self, nft: Nft, device: str, address: Address, port: int, resync_s: float) -> None:
        self.error = ""
        """Why the table may not be as it should; empty where it is."""
        self.dropped = 0
        """Datagrams that the table has dropped since it was made, as of the last look."""
        self._nft = nft
        self._family = _FAMILY[address.version]
        self._device = device
        self._name = _table_of(device)
        self._version = address.version
        self._addresses = [address]
        self._port = port
        self._resync_s = resync_s
        self._wanted: dict[str, frozenset[str]] | None = None
        self._written: str | None = None
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()

    def set_sources(self, sources: AbstractSet[Subnet]) -> None:
        """Take datagrams of these from now on; before the first call nothing is touched."""
        # What one prefix holds is not listed beside it: nft refuses intervals that overlap.
        wide = sorted((net for net in sources if net.prefixlen < net.max_prefixlen), key=lambda net: net.prefixlen)
        kept: list[Subnet] = []
        for net in wide:
            if not any(net.network_address in other for other in kept):
                kept.append(net)
        self._wanted = {
            "hosts": frozenset(str(net.network_address) for net in sources if net.prefixlen == net.max_prefixlen),
            "prefixes": frozenset(map(str, kept)),
        }
        self._changed.set()

    def cover(self, public: Address | None) -> None:
        """Drop what comes to this address too, instead of the one given before; None: to no other."""
        self._addresses[1:] = [] if public is None else [public]
        self._written = None
        self._changed.set()

    async def run(self) -> None:
        """Bring about what is wanted at once where that changes, and look each `resync_s` seconds, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._resync_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            await asyncio.shield(self.settle())  # an nft that has been started is waited for by remove()

    async def settle(self) -> bool:
        """Bring about what is wanted, now; whether it worked. The log has told why not."""
        async with self._turn:
            self._changed.clear()
            if self._wanted is None:
                return True
            try:
                await self._mend(self._wanted)
            except VxlandError as exc:
                error = exc.cause if isinstance(exc, StartError) else str(exc)
                if self.error != error:
                    remedy = "mend that, or write security.input_filter: bpf"
                    log.warning("input_filter_failed", error=error, remedy=remedy, retry_s=self._resync_s)
                self.error = error
            else:
                self.error = ""
        return not self.error

    async def remove(self) -> None:
        """Remove the table, and want none any more. Does not fail."""
        async with self._turn:
            self._wanted = None
            await remove_tables(self._nft, self._device)

    async def _mend(self, wanted: dict[str, frozenset[str]]) -> None:
        listed = await self._nft.nft_table(self._family, self._name)
        if counts := _COUNTS.search(listed):
            self.dropped = int(counts[1])
        frame, have = _taken_apart(listed)
        if self._written is not None and frame == self._written:
            if changes := self._changes(have, wanted):
                await self._nft.nft(changes)
            return
        await self._nft.nft(_replaced(self._family, self._name, self._text(wanted)))
        log.info("input_filter_set" if self._written is None else "input_filter_mended", table=self._name)
        self._written, _ = _taken_apart(await self._nft.nft_table(self._family, self._name))
        self.dropped = 0

    def _changes(self, have: dict[str, frozenset[str]], wanted: dict[str, frozenset[str]]) -> str:
        """Input of `nft -f` that turns the elements there into those wanted, in one transaction; "" where they are."""
        lines = []
        for name, elements in wanted.items():
            for verb, some in (("delete", have[name] - elements), ("add", elements - have[name])):
                if some:
                    lines.append(f"{verb} element {self._family} {self._name} {name} {{ {', '.join(sorted(some))} }}\n")
        return "".join(lines)

    def _text(self, wanted: dict[str, frozenset[str]]) -> str:
        family, kind = self._family, _TYPE[self._version]
        here = ", ".join(map(str, self._addresses))
        elements = {name: ", ".join(sorted(some)) for name, some in wanted.items()}
        hosts, prefixes = (f"elements = {{ {elements[name]} }}" if elements[name] else "" for name in wanted)
        return f"""\
table {family} {self._name} {{
	set hosts {{
		type {kind}
		{hosts}
	}}
	set prefixes {{
		type {kind}
		flags interval
		{prefixes}
	}}
	counter foreign {{
	}}
	chain input {{
		type filter hook input priority filter - 10; policy accept;
		{family} daddr {{ {here} }} udp dport {self._port} {family} saddr != @hosts {family} saddr != @prefixes counter name foreign drop
	}}
}}
"""  # noqa: E501  (a row of nft as it lists it)


async def remove_tables(nft: Nft, device: str) -> bool:
    """Remove what there is for a device, of either underlay family; whether there was anything. Does not fail."""
    found, name = False, _table_of(device)
    if not nft.installed("nftables", 4):
        return False
    for family in _FAMILY.values():
        try:
            if await nft.nft_table(family, name):
                await nft.nft(_replaced(family, name, ""))
                found = True
        except VxlandError as exc:
            log.debug("input_filter_not_swept", family=family, error=str(exc))  # perhaps a kernel without nf_tables
    return found


def _table_of(device: str) -> str:
    return f"vxland-{_UNFIT.sub('_', device)}"


def _replaced(family: str, name: str, text: str) -> str:
    table = f"table {family} {name}"  # added first: to delete what is missing is an error
    return f"add {table}\ndelete {table}\n{text}"


def _taken_apart(listed: str) -> tuple[str, dict[str, frozenset[str]]]:
    """A table as nft lists it, without elements, counts and blanks; and the elements of its sets."""
    have = {"hosts": frozenset[str](), "prefixes": frozenset[str]()}
    for name, text in _SET.findall(listed):
        have[name] = frozenset(element.strip() for element in text.split(","))
    frame = re.sub(r"elements = \{[^}]*\}", "", _COUNTS.sub("", listed))
    return " ".join(frame.split()), have
