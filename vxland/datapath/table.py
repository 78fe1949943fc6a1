"""Lookup of the VTEP that owns an address, in an immutable table that is replaced as a whole when leases change.

Theory of operation. Each lookup of the data path is a longest-prefix match on a key of at most 128 bits: the inner
destination IP, the inner destination MAC (as a prefix of full length), or the outer source address, which with NAT is
one of a prefix. A `PrefixMap` has one open-addressed hash area for each prefix length in use, longest first. A lookup
costs one probe for each of them (flannel clusters use one or two), whatever the number of leases.

Keys are two 64-bit halves, high and low; IPv4 addresses and MACs fill the low end of the low half. Values are VTEP
indices into the parallel arrays of `Table`, so the compiled gear needs no object. An area is at most a quarter full, so
most lookups take one probe; nothing is ever deleted from it. A record has key and value side by side, and the high half
only if keys have one. A lookup among many leases then costs one cache miss.

Anyone who can write to the store chooses keys, so each map hashes with its own random numbers. The hash is
pair-multiply-shift over 32-bit words, which is strongly universal: any two keys that were chosen beforehand share 32
bits of hash with a probability of 2^-32 (Thorup, High Speed Hashing for Integers and Strings, section 3). Such a hash
may place keys of equal distance, such as a cluster's subnets, side by side, where probing is slow. The 32 bits are
therefore permuted, which leaves the probability as it is. The hash needs no multiplication wider than 64 bits, so both
gears compute the same on every processor. No dictionary here has numbers as keys, whose Python hash anyone can compute.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate, groupby
from random import SystemRandom

from vxland.model.lease import Address, Lease, Subnet, Vtep

NONE = -1
EMPTY = 0xFFFF_FFFF_FFFF_FFFF  # the value of a record that holds no key
M32 = 0xFFFF_FFFF
M64 = 0xFFFF_FFFF_FFFF_FFFF
SCRAMBLE = 0x7FEB_352D  # an odd number, from Wellons' hash-prospector

_random_bits = SystemRandom().getrandbits


class PrefixMap:
    """Longest-prefix match over keys of `bits` bits: built from (key, prefix length, value), and never changed."""

    def __init__(self, bits: int, entries: Iterable[tuple[int, int, int]]) -> None:
        self.seed_0, self.seed_1, self.seed_2, self.seed_3, self.seed_4 = (_random_bits(64) for _ in range(5))
        mask_hi, mask_lo, first, wrap = array("Q"), array("Q"), array("q"), array("Q")
        records = array("Q")
        width = 3 if bits > 64 else 2
        by_length = sorted(entries, key=lambda entry: -entry[1])
        for prefix_len, group in groupby(by_length, key=lambda entry: entry[1]):
            area = list(group)
            size = 1 << (4 * len(area) - 1).bit_length()
            start = len(records)
            mask = (1 << bits) - (1 << bits - prefix_len)
            mask_hi.append(mask >> 64)
            mask_lo.append(mask & M64)
            first.append(start)
            wrap.append(size - 1)
            records.extend([0, EMPTY, 0][:width] * size)
            for key, _, value in area:
                hi, lo = key >> 64, key & M64
                slot = self.hash_of(hi, lo) & size - 1
                at = start + width * slot
                while records[at + 1] != EMPTY and (records[at] != lo or (width == 3 and records[at + 2] != hi)):
                    slot = slot + 1 & size - 1
                    at = start + width * slot
                # The last of several claims on a key wins.
                records[at : at + width] = array("Q", [lo, value, hi][:width])
        self.width = width
        self.lengths = len(first)
        self.mask_hi, self.mask_lo, self.first, self.wrap = mask_hi, mask_lo, first, wrap
        self.records = records

    def hash_of(self, hi: int, lo: int) -> int:
        """Return 32 bits that nobody outside can predict: the slot where probing for a key starts."""
        total = self.seed_4 + (self.seed_0 + (lo & M32)) * (self.seed_1 + (lo >> 32))
        if hi != 0:  # the same for all keys without it
            total += (self.seed_2 + (hi & M32)) * (self.seed_3 + (hi >> 32))
        word = (total & M64) >> 32
        word = (word ^ word >> 16) * SCRAMBLE & M32
        return word ^ word >> 15

    def lookup(self, hi: int, lo: int) -> int:
        """Return the value of the longest prefix that covers the key, NONE if there is none."""
        for area in range(self.lengths):
            masked_hi = hi & self.mask_hi[area]
            masked_lo = lo & self.mask_lo[area]
            wrap = self.wrap[area]
            slot = self.hash_of(masked_hi, masked_lo) & wrap
            at = self.first[area] + self.width * slot
            while self.records[at + 1] != EMPTY:
                if self.records[at] == masked_lo and (self.width == 2 or self.records[at + 2] == masked_hi):
                    return self.records[at + 1]
                slot = slot + 1 & wrap
                at = self.first[area] + self.width * slot
        return NONE


class Table:
    """All leased subnets and VTEPs of a node's peers. All VTEPs listen on UDP port `port`."""

    def __init__(self, leases: Iterable[Lease], port: int) -> None:
        ordered = sorted(leases, key=_rank)  # of two claims on one subnet, every node prefers the same one
        self.leases = tuple(ordered)
        self.vteps: tuple[Vtep, ...] = tuple(dict.fromkeys(lease.vtep for lease in ordered))
        self.destinations = [(str(vtep.address), port) for vtep in self.vteps]
        self.port = port
        self.underlay_v6 = any(vtep.address.version == 6 for vtep in self.vteps)
        index = {vtep: i for i, vtep in enumerate(self.vteps)}
        self.vtep_mac = array("Q", [vtep.mac.value for vtep in self.vteps])
        self.outer_hi = array("Q", [key_of(vtep.address) >> 64 for vtep in self.vteps])
        self.outer_lo = array("Q", [key_of(vtep.address) & M64 for vtep in self.vteps])
        # A MAC that several nodes claim identifies none of them: the inner destination decides.
        uses = Counter(vtep.mac for vtep in self.vteps)
        self.by_mac = PrefixMap(48, [(vtep.mac.value, 48, i) for vtep, i in index.items() if uses[vtep.mac] == 1])
        self.by_outer = PrefixMap(128, self._take_sources(index))
        self.by_inner_v4 = PrefixMap(32, self._subnets(4, index))
        self.by_inner_v6 = PrefixMap(128, self._subnets(6, index))

    def _take_sources(self, index: dict[Vtep, int]) -> list[tuple[int, int, int]]:
        """Store the prefixes that each VTEP's datagrams may come from; return the entries of `by_outer`.

        If two nodes use one address, the node whose own VTEP address it is wins; otherwise the lower MAC and address.
        """
        given: list[set[Subnet]] = [set() for _ in self.vteps]
        for lease in self.leases:
            given[index[lease.vtep]].update(lease.sources)
        keys = [[(key_of(each.network_address), _key_len(each)) for each in sources] for sources in given]
        masks = [(1 << 128) - (1 << 128 - length) for found in keys for _, length in found]
        self.nat_first = array("q", accumulate(map(len, keys), initial=0))
        self.nat_hi = array("Q", [key >> 64 for found in keys for key, _ in found])
        self.nat_lo = array("Q", [key & M64 for found in keys for key, _ in found])
        self.nat_mask_hi = array("Q", [mask >> 64 for mask in masks])
        self.nat_mask_lo = array("Q", [mask & M64 for mask in masks])
        first_last = sorted(index.items(), key=lambda each: (each[0].mac.value, key_of(each[0].address)), reverse=True)
        return [
            *((key, length, i) for _, i in first_last for key, length in keys[i]),
            *((key_of(vtep.address), 128, i) for vtep, i in first_last),
        ]

    def _subnets(self, version: int, index: dict[Vtep, int]) -> list[tuple[int, int, int]]:
        return [
            (int(lease.subnet.network_address), lease.subnet.prefixlen, index[lease.vtep])
            for lease in self.leases
            if lease.subnet.version == version
        ]

    def owner_of_inner(self, version: int, hi: int, lo: int) -> int:
        """Return the index of the VTEP whose subnet contains the inner address, NONE if no lease does."""
        return self.by_inner_v4.lookup(hi, lo) if version == 4 else self.by_inner_v6.lookup(hi, lo)

    def sends_from(self, vtep: int, hi: int, lo: int) -> bool:
        """Whether datagrams of the VTEP may have this outer source: its own address, or one from NAT."""
        if self.outer_lo[vtep] == lo and self.outer_hi[vtep] == hi:
            return True
        for at in range(self.nat_first[vtep], self.nat_first[vtep + 1]):
            if hi & self.nat_mask_hi[at] == self.nat_hi[at] and lo & self.nat_mask_lo[at] == self.nat_lo[at]:
                return True
        return False

    def is_inner_source(self, version: int, hi: int, lo: int, outer_hi: int, outer_lo: int) -> bool:
        """Whether the node whose datagrams come from `outer` may send from this inner address.

        It may use any address of its subnets, and its own underlay address: programs on the node that are bound to
        that address send from it through the tunnel.
        """
        owner = self.owner_of_inner(version, hi, lo)
        if owner == NONE and (version == 6) == self.underlay_v6:
            owner = self.by_outer.lookup(hi, lo)
        return owner != NONE and self.sends_from(owner, outer_hi, outer_lo)

    def lookup(self, address: Address) -> Vtep | None:
        """Return the VTEP that owns an inner address; for traces and tests, not for the burst loop."""
        key = int(address)
        found = self.owner_of_inner(address.version, key >> 64, key & M64)
        return None if found == NONE else self.vteps[found]


def _rank(lease: Lease) -> tuple[int, ...]:
    """Return the sort key of a lease. Of two claims on one subnet the last wins: the lower MAC, as in reconcile/."""
    subnet, vtep = lease.subnet, lease.vtep
    return (subnet.version, int(subnet.network_address), subnet.prefixlen, -vtep.mac.value, -int(vtep.address))


def _key_len(source: Subnet) -> int:
    """Return the length of an underlay prefix as a prefix of a 128-bit key."""
    return source.prefixlen + 128 - source.max_prefixlen


def key_of(outer: Address) -> int:
    """Return an underlay address as a key: its number in either family, as a node's underlay has only one."""
    return int(outer)
