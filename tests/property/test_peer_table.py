"""A table after any sequence of changes, against one that is built from the leases it ends with."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vxland.datapath.table import Table, table_of
from vxland.model.lease import Address, Change, Lease, Mac, Subnet, Vtep
from vxland.model.steps import at_once
from vxland.node.peer_table import PeerTable

# Few values of each kind, so that they meet.
OUTERS: dict[int, list[Address]] = {
    4: [IPv4Address("192.0.2.0") + i for i in range(6)],
    6: [IPv6Address("2001:db8::") + (i << 62) for i in range(6)],
}
MACS = [Mac(2 * i) for i in range(1, 7)]
SUBNETS: list[Subnet] = [
    *(IPv4Network((0x0AF4_0000 + (i << 8), 24)) for i in range(6)),
    ip_network("10.244.0.0/16"),
    *(IPv6Network(((0xFD << 120) + (i << 64), 64)) for i in range(3)),
]
INNERS: list[Address] = [*(subnet[9] for subnet in SUBNETS), IPv4Address("10.9.9.9"), *OUTERS[4], *OUTERS[6]]
FEW = 64
"""Dead indices that any table may have."""


def named(version: int) -> list[Subnet]:
    """Return sources that leases may name: prefixes of the addresses, addresses, and one of the other family."""
    first, bits = OUTERS[version][0], OUTERS[version][0].max_prefixlen
    own: list[Subnet] = [ip_network((first, bits - 2)), ip_network((first, bits - 66 if version == 6 else 24))]
    return [*own, *(ip_network(each) for each in OUTERS[version][:3]), ip_network(OUTERS[10 - version][0])]


class PeersMachine(RuleBasedStateMachine):
    """Changes of one lease, with others that go. Earlier tables are looked up again once later ones were made."""

    @initialize(version=st.sampled_from([4, 6]))
    def begin(self, version: int) -> None:
        """Begin with no lease, over an underlay of one family."""
        self.version = version
        self.outers = OUTERS[version]
        self.peers = PeerTable(8472, version)
        self.held: dict[Subnet, Lease] = {}
        self.flaps = 0
        self.earlier: list[tuple[Table, list[object]]] = []

    @rule(data=st.data(), subnet=st.sampled_from(SUBNETS), gone=st.sets(st.sampled_from(SUBNETS), max_size=3))
    def change(self, data: st.DataObject, subnet: Subnet, gone: set[Subnet]) -> None:
        """Add or replace a lease, and remove others."""
        vtep = Vtep(data.draw(st.sampled_from(self.outers)), data.draw(st.sampled_from(MACS)))
        names = tuple(data.draw(st.lists(st.sampled_from(named(self.version)), max_size=2)))
        self.add(Lease(subnet, vtep, names), gone)

    @rule(subnet=st.sampled_from(SUBNETS), data=st.data())
    def flap(self, subnet: Subnet, data: st.DataObject) -> None:
        """Change one lease so often that the table has more dead indices than live ones, and is built again."""
        lineage = self.peers.table.lineage
        outer = data.draw(st.sampled_from(self.outers))
        for _ in range(FEW + 8):
            self.flaps += 1
            self.add(Lease(subnet, Vtep(outer, Mac(1000 + self.flaps))), set())
        assert self.peers.table.lineage is not lineage

    def add(self, lease: Lease, gone: set[Subnet]) -> None:
        """Apply the change that adds a lease, and removes others."""
        before = self.peers.table
        answers = self.answers(before)
        removed = [self.held.pop(subnet) for subnet in (gone | {lease.subnet}) & self.held.keys()]
        self.held[lease.subnet] = lease
        at_once(self.peers.changing(Change(frozenset(removed), frozenset({lease}))))
        self.earlier = [*self.earlier[-2:], (before, answers)]

    def answers(self, found: Table) -> list[object]:
        """Return the results of every lookup, as VTEPs."""

        def vtep(index: int) -> Vtep | None:
            return None if index < 0 else found.vtep_at(index)

        sources = [divmod(int(outer), 1 << 64) for outer in self.outers]
        inner = [found.lookup(address) for address in INNERS]
        mac = [vtep(found.by_mac.lookup(0, each.value)) for each in (*MACS, Mac(1001), Mac(1072))]
        outer = [vtep(found.by_outer.lookup(*source)) for source in sources]
        keys = [(each.version, *divmod(int(each), 1 << 64)) for each in INNERS]
        strict = [found.is_inner_source(*key, *source) for key in keys for source in sources]
        return [inner, mac, outer, strict]

    @invariant()
    def agrees_with_a_whole_build(self) -> None:
        """A whole build is a change from nothing; and earlier tables are as they were."""
        if self.held:
            assert self.answers(self.peers.table) == self.answers(table_of(self.held.values(), 8472))
        assert set(self.peers.table.vteps) == {lease.vtep for lease in self.held.values()}
        for found, answers in self.earlier:
            assert self.answers(found) == answers


TestPeers = PeersMachine.TestCase
TestPeers.settings = settings(deadline=None, max_examples=40, stateful_step_count=12)
