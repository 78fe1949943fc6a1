"""Elements of the input filter's two sets, and the changes to them that nftables does not have yet. Pure.

Single addresses are in one set, prefixes in the other. nft refuses intervals that overlap, so a prefix within another
one is no element. When the outer prefix goes, the outermost of those within it take its place.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, TypeAlias

from vxland.model.lease import Subnet

HOSTS: Final = "hosts"
PREFIXES: Final = "prefixes"

Elements: TypeAlias = Mapping[str, frozenset[str]]
"""Elements by the name of their set, as a script writes them."""


class SourceSets:
    """Sources of one IP version: of none at first."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._prefixes: list[Subnet] = []
        """All prefixes, sorted: those within another one follow it."""
        self._outer: list[Subnet] = []
        """The prefixes that lie within no other one, sorted."""
        self._pending: dict[str, dict[str, bool]] = {HOSTS: {}, PREFIXES: {}}
        """Elements that nftables lacks (True), or has and should not have (False)."""

    def admit(self, source: Subnet) -> None:
        """Add a source; no effect if it is there."""
        if source.prefixlen < source.max_prefixlen:
            self._admit_prefix(source)
        elif (host := str(source.network_address)) not in self._hosts:
            self._hosts.add(host)
            self._note(HOSTS, host, wanted=True)

    def withdraw(self, source: Subnet) -> None:
        """Remove a source; no effect if it is not there."""
        if source.prefixlen < source.max_prefixlen:
            self._withdraw_prefix(source)
        elif (host := str(source.network_address)) in self._hosts:
            self._hosts.remove(host)
            self._note(HOSTS, host, wanted=False)

    def elements(self) -> Elements:
        """Return all elements. They count as written from now on."""
        self._forget()
        return {HOSTS: frozenset(self._hosts), PREFIXES: frozenset(map(str, self._outer))}

    def take_changes(self) -> tuple[Elements, Elements]:
        """Return the elements that have gone and come since elements() or this were called last."""
        new = {name: frozenset(each for each in some if some[each]) for name, some in self._pending.items()}
        gone = {name: frozenset(some.keys() - new[name]) for name, some in self._pending.items()}
        self._forget()
        return gone, new

    def _admit_prefix(self, source: Subnet) -> None:
        at = bisect_left(self._prefixes, source)
        if source in self._prefixes[at : at + 1]:
            return
        self._prefixes.insert(at, source)
        at = bisect_left(self._outer, source)
        if at > 0 and _lies_in(source, self._outer[at - 1]):
            return
        self._replace(at, _count_within(self._outer, at, source), [source])

    def _withdraw_prefix(self, source: Subnet) -> None:
        at = bisect_left(self._prefixes, source)
        if source not in self._prefixes[at : at + 1]:
            return
        del self._prefixes[at]
        place = bisect_left(self._outer, source)
        if source not in self._outer[place : place + 1]:
            return
        inner: list[Subnet] = []
        for each in self._prefixes[at : at + _count_within(self._prefixes, at, source)]:
            if not (inner and _lies_in(each, inner[-1])):
                inner.append(each)
        self._replace(place, 1, inner)

    def _replace(self, at: int, count: int, by: list[Subnet]) -> None:
        for source in self._outer[at : at + count]:
            self._note(PREFIXES, str(source), wanted=False)
        for source in by:
            self._note(PREFIXES, str(source), wanted=True)
        self._outer[at : at + count] = by

    def _note(self, name: str, element: str, *, wanted: bool) -> None:
        """Note that an element has come or gone. Both together change nothing."""
        pending = self._pending[name]
        if element in pending:
            del pending[element]
        else:
            pending[element] = wanted

    def _forget(self) -> None:
        for pending in self._pending.values():
            pending.clear()


def _count_within(prefixes: list[Subnet], at: int, outer: Subnet) -> int:
    """Return the number of sorted prefixes from index `at` on that lie within another one."""
    end = at
    while end < len(prefixes) and _lies_in(prefixes[end], outer):
        end += 1
    return end - at


def _lies_in(inner: Subnet, outer: Subnet) -> bool:
    return inner.network_address in outer and inner.prefixlen >= outer.prefixlen
