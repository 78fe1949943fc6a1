"""The nat rules of `vxlandctl test --dnat`: they turn connections to this node's own overlay address to peers.

The rules are those of kube-proxy for a NodePort: a destination NAT in the output hook, and a source NAT (masquerade)
with a random port behind it. The source port of a connection selects the peer, so no other connection is affected. The
table exists while its batch of peers is tested. A killed daemon leaves it; the next such test removes it, and `vxland
run --cleanup` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from vxland.firewall.nft_listing import NftTable
from vxland.firewall.rules import Family, Flavour
from vxland.model.errors import StartError, VxlandError
from vxland.model.lease import Address

_FAMILY: Final = {4: "ip", 6: "ip6"}
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")


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


class NatRules:
    """The table of one device and one IP version, for connections to `own` and TCP `port`."""

    def __init__(self, nft: Nft, device: str, own: Address, port: int) -> None:
        self._nft = nft
        self._device = device
        self._own = own
        self._port = port
        self._family = _FAMILY[own.version]
        self._name = _table_of(device)

    async def set(self, peers: Mapping[int, Address]) -> str:
        """Turn connections from these source ports to these peers; return why that is impossible, or nothing."""
        try:
            await self._nft.nft(_removed(self._family, self._name) + self.text(peers))
        except VxlandError as exc:
            return exc.cause if isinstance(exc, StartError) else str(exc)
        return ""

    async def remove(self) -> None:
        """Remove the table. VxlandError."""
        await self._nft.nft(_removed(self._family, self._name))

    def text(self, peers: Mapping[int, Address]) -> str:
        """Return the table, as nft reads it."""
        family, own, port = self._family, self._own, self._port
        elements = ", ".join(f"{source} : {peer}" for source, peer in peers.items())
        return f"""\
table {family} {self._name} {{
	map peers {{
		type inet_service : {"ipv4_addr" if own.version == 4 else "ipv6_addr"}
		elements = {{ {elements} }}
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		{family} daddr {own} tcp dport {port} dnat to tcp sport map @peers
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		oifname "{self._device}" ct status dnat {family} saddr {own} tcp dport {port} masquerade fully-random
	}}
}}
"""


async def remove_nat_rules(nft: Nft, device: str) -> bool:
    """Remove the tables of a device that a killed daemon left; return whether there were any. Does not fail."""
    if not nft.installed("nftables", 4):
        return False
    found, name = False, _table_of(device)
    for family in _FAMILY.values():
        try:
            if await nft.nft_table(family, name) is not None:
                await nft.nft(_removed(family, name))
                found = True
        except VxlandError:  # perhaps a kernel without nf_tables
            continue
    return found


def _table_of(device: str) -> str:
    return f"vxland-test-{_UNFIT.sub('_', device)}"


def _removed(family: str, name: str) -> str:
    return f"add table {family} {name}\ndelete table {family} {name}\n"  # added first: a missing table is an error
