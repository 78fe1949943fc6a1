"""The choice of a node's subnets."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network
from random import SystemRandom

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxland.model.errors import StartError
from vxland.model.lease import Subnet
from vxland.registry.etcd.allocation import LeaseRecord, choose, fits, older_claim
from vxland.registry.net_conf import Pool

POOL = Pool(ip_network("10.244.0.0/16"), 24, *(ip_network(f"10.244.{n}.0/24").network_address for n in (1, 255)))
HUGE = Pool(ip_network("fd00::/16"), 64, *(ip_network(f"fd00:{n}::/64").network_address for n in ("0:0:1", "ffff")))
DUAL = {4: POOL, 6: HUGE}


def record(*subnets: str, created: int = 1, permanent: bool = False) -> LeaseRecord:
    """Return an entry for these subnets."""
    return LeaseRecord(",".join(subnets).encode(), tuple(map(ip_network, subnets)), created, created + 5, permanent)


def never(_count: int) -> int:
    """Fail: no random number is needed."""
    pytest.fail("a random subnet was chosen")


def first(_count: int) -> int:
    """Return the number of the first free subnet."""
    return 0


def test_the_own_entry_is_kept() -> None:
    """Whatever is in subnet.env; it keeps its TTL, or has none."""
    own = record("10.244.9.0/24", permanent=True)
    choice = choose({4: POOL}, [own], [], {4: ip_network("10.244.7.0/24")}, never)
    assert (choice.subnets, choice.kept, choice.dropped) == ({4: ip_network("10.244.9.0/24")}, own, ())
    assert choice.permanent


def test_of_several_own_entries_the_one_in_use_is_kept() -> None:
    """The one in subnet.env, else the oldest. Other fitting ones may be a cloned node's, and stay."""
    older, newer = record("10.244.9.0/24"), record("10.244.7.0/24", created=2)
    assert choose({4: POOL}, [newer, older], [], {4: ip_network("10.244.7.0/24")}, never).kept == newer
    choice = choose({4: POOL}, [newer, older], [], {}, never)
    assert (choice.kept, choice.dropped) == (older, ())


@pytest.mark.parametrize("subnet", ["10.244.9.0/25", "10.245.9.0/24", "10.244.0.0/24"])
def test_an_own_entry_that_does_not_fit_goes(subnet: str) -> None:
    """It has another length, is outside the network, or before SubnetMin."""
    own = record(subnet)
    choice = choose({4: POOL}, [own], [], {}, first)
    assert (choice.subnets, choice.kept, choice.dropped) == ({4: ip_network("10.244.1.0/24")}, None, (own,))


def test_a_network_that_became_dual_stack_keeps_the_ipv4_subnet() -> None:
    """The key changes, so the entry is new, and a reservation if it was one; flannel would move the node."""
    own = record("10.244.9.0/24", permanent=True)
    choice = choose(DUAL, [own], [], {}, first)
    assert choice.subnets == {4: ip_network("10.244.9.0/24"), 6: ip_network("fd00:0:0:1::/64")}
    assert (choice.kept, choice.dropped, choice.permanent) == (None, (own,), True)


def test_an_own_entry_yields_to_an_older_one_that_overlaps() -> None:
    """Two nodes cannot share pod addresses; a younger claim is no reason to move."""
    own = record("10.244.9.0/24", created=2)
    assert choose({4: POOL}, [own], [record("10.244.8.0/23", created=3)], {}, never).kept == own
    choice = choose({4: POOL}, [own], [record("10.244.8.0/23", created=1)], {}, first)
    assert (choice.subnets, choice.dropped) == ({4: ip_network("10.244.1.0/24")}, (own,))


def test_each_family_is_chosen_on_its_own() -> None:
    """The previous IPv4 subnet is taken, the IPv6 one free."""
    previous = {4: ip_network("10.244.7.0/24"), 6: ip_network("fd00:0:7::/64")}
    choice = choose(DUAL, [], [record("10.244.7.0/24")], previous, first)
    assert choice.subnets == {4: ip_network("10.244.1.0/24"), 6: ip_network("fd00:0:7::/64")}


def test_an_older_claim_is_found_where_it_overlaps() -> None:
    """Any of its subnets counts; an entry is not older than itself."""
    own = record("10.244.9.0/24", "fd00:0:9::/64", created=5)
    for other, is_older in (
        (record("10.244.9.0/24", created=4), True),
        (record("10.244.1.0/24", "fd00:0:9::/64", created=4), True),
        (record("10.244.9.128/25", created=4), True),
        (record("10.244.9.0/24", created=6), False),
        (record("10.244.1.0/24", "fd00:0:1::/64", created=4), False),
        (own, False),
    ):
        assert (older_claim(own, [other]) == other) == is_older


def free_of(pool: Pool, taken: Iterable[Subnet]) -> list[Subnet]:
    """Return the free subnets, found by walking through the pool."""
    return [
        subnet
        for subnet in pool.network.subnets(new_prefix=pool.length)
        if fits(pool, subnet) and not any(subnet.overlaps(other) for other in taken)
    ]


_taken = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(0x0AF40000, 0x0AF4FFFF) | st.integers(0, 0xFFFFFFFF),
        st.integers(10, 30),
    ),
    max_size=12,
)


@given(_taken, st.integers(16, 20), st.data())
def test_the_free_subnets_are_those_a_walk_finds(taken: list[IPv4Network], length: int, data: st.DataObject) -> None:
    """Each free subnet has its number, in order."""
    network = ip_network("10.244.0.0/15")
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, 2 ** (length - 15) - 1)] * 2)))
    subnets = list(network.subnets(new_prefix=length))
    pool = Pool(network, length, subnets[low].network_address, subnets[high].network_address)
    others = [record(str(subnet)) for subnet in taken]
    free = free_of(pool, taken)
    if not free:
        with pytest.raises(StartError, match=f"out of subnets: all {high - low + 1} of length /{length}"):
            choose({4: pool}, [], others, {}, first)
        return

    def picked(number: int) -> Subnet:
        def below(count: int) -> int:
            assert count == len(free)
            return number

        return choose({4: pool}, [], others, {}, below).subnets[4]

    assert [picked(number) for number in range(len(free))] == free


def test_a_network_of_2_to_48_subnets_takes_no_longer() -> None:
    """Gaps are counted, not subnets."""
    taken = record("10.244.1.0/24", "fd00:0:0:1::/64")
    choice = choose(DUAL, [], [taken], {}, SystemRandom().randrange)
    assert fits(HUGE, choice.subnets[6])
    assert choose(DUAL, [], [taken], {}, first).subnets[6] == ip_network("fd00:0:0:2::/64")
