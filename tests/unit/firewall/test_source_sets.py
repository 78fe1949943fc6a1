"""Elements of the input filter's sets: what changes, and what a full computation finds."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vxland.firewall.source_sets import HOSTS, PREFIXES, Elements, SourceSets
from vxland.model.lease import Subnet

SOURCES: list[Subnet] = [
    ip_network(each)
    for each in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.0/24",
        "10.1.1.0/24",
        "10.1.1.128/25",
        "10.1.1.255/32",
        "10.2.0.0/16",
        "10.0.0.0/32",
        "198.51.100.0/25",
        "198.51.100.128/25",
        "198.51.100.0/24",
    )
]


def full(sources: set[Subnet]) -> Elements:
    """Return the elements of these sources, computed from all of them."""
    wide = {net for net in sources if net.prefixlen < 32}
    outer = {net for net in wide if not any(net != other and net.subnet_of(other) for other in wide)}  # type: ignore[arg-type]
    hosts = {str(net.network_address) for net in sources - wide}
    return {HOSTS: frozenset(hosts), PREFIXES: frozenset(map(str, outer))}


class Following(RuleBasedStateMachine):
    """Sources that come and go, and an nftables that takes changes at any time, or a listing of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.sets = SourceSets()
        self.sources: set[Subnet] = set()
        self.written = full(set())

    @rule(source=st.sampled_from(SOURCES))
    def admit(self, source: Subnet) -> None:
        """A source comes, or is there."""
        self.sets.admit(source)
        self.sources.add(source)

    @rule(source=st.sampled_from(SOURCES))
    def withdraw(self, source: Subnet) -> None:
        """A source goes, or is not there."""
        self.sets.withdraw(source)
        self.sources.discard(source)

    @rule()
    def write_changes(self) -> None:
        """Exactly the elements that differ change: nft refuses to delete what is missing, and to add what overlaps."""
        gone, new = self.sets.take_changes()
        want = full(self.sources)
        for name, elements in self.written.items():
            assert (gone[name], new[name]) == (elements - want[name], want[name] - elements)
        self.written = want

    @rule()
    def write_all(self) -> None:
        """After a failure or on the timer."""
        self.written = self.sets.elements()
        assert self.written == full(self.sources)

    @invariant()
    def nothing_else_changes(self) -> None:
        """Changes are taken once."""
        if self.written == full(self.sources):
            assert not any(any(some.values()) for some in self.sets.take_changes())


TestFollowing = Following.TestCase
