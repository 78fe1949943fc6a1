"""The choice of this node's subnets, by the rules of flannel's local_manager.go. Pure.

For each family, in this order: a subnet that the node holds already, the one in subnet.env, any free one. flannel picks
the last of the first 100 free ones. Here every free one is equally likely, so nodes that start at the same time seldom
choose the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from vxland.model.errors import StartError
from vxland.model.lease import Subnet
from vxland.registry.net_conf import Pool


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One key under `subnets`; `created` and `modified` are its create_revision and mod_revision."""

    key: bytes
    subnets: tuple[Subnet, ...]
    created: int
    modified: int
    permanent: bool
    """The key has no TTL: it is a reservation."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The subnets to hold, by IP version; the own key that claims them already, or None; the own keys to delete."""

    subnets: Mapping[int, Subnet]
    kept: LeaseRecord | None
    dropped: tuple[LeaseRecord, ...]
    permanent: bool
    """The key gets no TTL, because an administrator has reserved the subnet."""


def choose(
    pools: Mapping[int, Pool],
    own: Iterable[LeaseRecord],
    others: Iterable[LeaseRecord],
    previous: Mapping[int, Subnet],
    below: Callable[[int], int],
) -> Choice:
    """Choose this node's subnets. `own` are the keys with its address; `below(n)` returns a random number below n.

    StartError if all subnets are taken.
    """
    known = list(others)
    mine = sorted(own, key=lambda record: (set(record.subnets) != set(previous.values()), record.created))
    good = [record for record in mine if _is_whole(pools, record) and older_claim(record, known) is None]
    if good:
        kept = good[0]
        dropped = tuple(record for record in mine if record not in good)
        return Choice({subnet.version: subnet for subnet in kept.subnets}, kept, dropped, kept.permanent)
    taken = [subnet for record in known for subnet in record.subnets]
    permanent = False
    chosen: dict[int, Subnet] = {}
    for version, pool in sorted(pools.items()):
        spans = [_span(subnet) for subnet in taken if subnet.version == version]
        held = {subnet: record for record in mine for subnet in record.subnets if subnet.version == version}
        wanted = [*held, *([previous[version]] if version in previous else [])]
        found = next((subnet for subnet in wanted if fits(pool, subnet) and not _overlaps(_span(subnet), spans)), None)
        chosen[version] = found or _any_free(pool, spans, below)
        permanent = permanent or (found in held and held[found].permanent)
    return Choice(chosen, None, tuple(mine), permanent)


def fits(pool: Pool, subnet: Subnet) -> bool:
    """Return whether the pool may assign `subnet`."""
    return (
        subnet.version == pool.network.version
        and subnet.prefixlen == pool.length
        and int(pool.first) <= int(subnet.network_address) <= int(pool.last)
    )


def older_claim(own: LeaseRecord, records: Iterable[LeaseRecord]) -> LeaseRecord | None:
    """Return an older key that claims a part of the same subnets, or None; the later key has to go.

    A transaction on one key cannot detect this: two dual-stack nodes may choose one IPv4 subnet and different IPv6 ones
    at the same time.
    """
    for record in records:
        if record.key != own.key and record.created < own.created:
            for subnet in record.subnets:
                if any(
                    _overlaps(_span(subnet), [_span(mine)]) for mine in own.subnets if mine.version == subnet.version
                ):
                    return record
    return None


def _is_whole(pools: Mapping[int, Pool], record: LeaseRecord) -> bool:
    """Return whether the record has exactly one fitting subnet of every family."""
    versions = [subnet.version for subnet in record.subnets]
    return sorted(versions) == sorted(pools) and all(fits(pools[subnet.version], subnet) for subnet in record.subnets)


def _span(subnet: Subnet) -> tuple[int, int]:
    return int(subnet.network_address), int(subnet.broadcast_address)


def _overlaps(span: tuple[int, int], spans: Iterable[tuple[int, int]]) -> bool:
    first, last = span
    return any(first <= end and start <= last for start, end in spans)


def _any_free(pool: Pool, spans: Iterable[tuple[int, int]], below: Callable[[int], int]) -> Subnet:
    """Return a random subnet outside `spans`. Counts gaps, not subnets: an IPv6 network may have 2**60 of them."""
    bits = pool.network.max_prefixlen - pool.length
    base = int(pool.first)
    count = ((int(pool.last) - base) >> bits) + 1
    gaps: list[tuple[int, int]] = []  # of subnets by number, the end not included
    at = 0
    for start, end in sorted(((first - base) >> bits, (last - base) >> bits) for first, last in spans):
        if at < min(start, count):
            gaps.append((at, min(start, count)))
        at = max(at, end + 1)
    if at < count:
        gaps.append((at, count))
    free = sum(end - start for start, end in gaps)
    if not free:
        raise StartError(
            f"out of subnets: all {count} of length /{pool.length} in {pool.network} are taken",
            "give the cluster's network configuration a larger Network, or delete the keys of nodes that are gone",
        )
    number = below(free)
    for start, end in gaps:
        if number < end - start:
            number += start
            break
        number -= end - start
    network = IPv4Network if pool.network.version == 4 else IPv6Network
    return network((base + (number << bits), pool.length))
