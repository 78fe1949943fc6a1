"""The entry of this node in a real etcd: taken, kept, renewed, put back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network

import pytest

from tests.registry.cluster import NETWORK, Cluster, name, quickly, text, vtep
from tests.registry.following import Follower, Reading, until
from vxland.control.etcd.holder import TTL_S
from vxland.control.subnet_env import render, write
from vxland.errors import ConfigError, LeaseLostError, StartError
from vxland.model import Lease, Mac, Snapshot, Vtep

OWN = vtep(0)


def own_lease(subnet: str) -> Lease:
    """Our lease on a subnet."""
    return Lease(ip_network(subnet), OWN)


def remember(cluster: Cluster, subnet: str) -> None:
    """Leave the subnet.env of an earlier run."""
    write(cluster.folder / "subnet.env", render([ip_network(NETWORK)], [ip_network(subnet)], 1450, ip_masq=False))


class Clock:
    """Time that passes when it is told to; a sleep ends at once, but the loop's other work goes first."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._moved = asyncio.Event()

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self._moved.set()

    async def sleep(self, seconds: float) -> None:
        """Until the next advance()."""
        self.slept.append(seconds)
        await self._moved.wait()
        self._moved.clear()


async def until_entry(cluster: Cluster, key: str, lease_not: int | None) -> int:
    """The etcd lease of an entry once it is there with another than `lease_not`."""
    await until(lambda: cluster.lease_of(key) not in {lease_not, None})
    lease = cluster.lease_of(key)
    assert lease is not None
    return lease


async def test_the_entry_is_flannels_byte_by_byte(cluster: Cluster) -> None:
    """A first start: a random free subnet, with a TTL of a day. reference: flannel's registry.go, lease.go."""
    (lease,) = await cluster.registry().publish({4: OWN})
    assert lease.vtep == OWN
    assert lease.subnet.prefixlen == 24
    assert lease.subnet.network_address in IPv4Network(NETWORK)
    key = name(lease)
    assert cluster.entries() == {
        key: '{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"3a:87:cf:81:00:00"}}'
    }
    granted = cluster.server.ctl("lease", "timetolive", f"{cluster.lease_of(key):x}")
    assert f"granted with TTL({TTL_S}s)" in granted


async def test_an_entry_with_our_address_is_ours(cluster: Cluster) -> None:
    """After a restart the subnet and the MAC are the ones peers know, whatever subnet.env says."""
    old = Vtep(OWN.address, Mac(0x3A87CF81FFFF))
    cluster.put("subnets/10.244.9.0-24", text(Lease(IPv4Network("10.244.9.0/24"), old)), cluster.grant(600))
    remember(cluster, "10.244.7.0/24")
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {4: old.mac}
    assert await registry.publish({4: OWN}) == {own_lease("10.244.9.0/24")}
    assert list(cluster.entries()) == ["10.244.9.0-24"]


async def test_recall_knows_nothing_of_others(cluster: Cluster) -> None:
    """No entry with our address, or no address yet: no MAC."""
    cluster.put("subnets/10.244.9.0-24", text(Lease(IPv4Network("10.244.9.0/24"), vtep(1))))
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {}
    assert (await registry.recall({})).macs == {}


async def test_the_previous_subnet_is_taken_again(cluster: Cluster) -> None:
    """The entry ended while the node was down; its pods still have addresses of that subnet."""
    remember(cluster, "10.244.7.0/24")
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.7.0/24")}


@pytest.mark.parametrize("previous", ["10.244.7.0/24", "10.244.7.0/25", "10.99.7.0/24", "10.244.0.0/24"])
async def test_a_previous_subnet_that_cannot_be_is_not_taken(cluster: Cluster, previous: str) -> None:
    """It is another node's now, of another size, outside the network, or before SubnetMin."""
    cluster.put("subnets/10.244.7.0-24", text(Lease(IPv4Network("10.244.7.0/24"), vtep(1))))
    remember(cluster, previous)
    (lease,) = await cluster.registry().publish({4: OWN})
    assert str(lease.subnet) not in {previous, "10.244.7.0/24"}
    assert lease.subnet.prefixlen == 24


async def test_an_own_entry_that_no_longer_fits_is_replaced(cluster: Cluster) -> None:
    """The network was made over with other sizes: the old claim is deleted with the transaction that makes the new."""
    cluster.put("subnets/10.244.9.0-25", text(Lease(IPv4Network("10.244.9.0/25"), OWN)), cluster.grant(600))
    (lease,) = await cluster.registry().publish({4: OWN})
    assert lease.subnet.prefixlen == 24
    assert list(cluster.entries()) == [name(lease)]


async def test_a_reservation_stays_without_a_ttl(cluster: Cluster) -> None:
    """Flannel's next start would turn it into a lease of a day; here its owner fills it in and leaves it for ever."""
    cluster.put("subnets/10.244.9.0-24", '{"PublicIP":"192.168.0.1"}')
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.9.0/24")}
    assert cluster.lease_of("10.244.9.0-24") == 0
    assert '"VtepMAC":"3a:87:cf:81:00:00"' in cluster.entries()["10.244.9.0-24"]


async def test_anothers_reservation_is_not_taken(cluster: Cluster) -> None:
    """Of two subnets one is reserved for another node: a third node finds none."""
    cluster.define(SubnetLen=24, SubnetMin="10.244.4.0", SubnetMax="10.244.5.0")
    cluster.put("subnets/10.244.4.0-24", '{"PublicIP":"192.168.0.9"}')
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.5.0/24")}
    with pytest.raises(
        StartError, match=r"out of subnets: all 2 of length /24 in 10\.244\.0\.0/16 are taken; .*delete"
    ):
        await cluster.registry().publish({4: vtep(2)})


async def test_a_lost_race_is_run_again(cluster: Cluster) -> None:
    """Another node takes the very subnet between our listing and our write; flanneld exits then."""
    chosen: list[str] = []

    def below(_count: int) -> int:
        """Choose the first free subnet, and let another node be faster once."""
        number = 0 if not chosen else 1
        if not chosen:
            cluster.put("subnets/10.244.1.0-24", text(Lease(IPv4Network("10.244.1.0/24"), vtep(1))))
        chosen.append("tried")
        return number

    assert await cluster.registry(below=below).publish({4: OWN}) == {own_lease("10.244.3.0/24")}
    assert len(chosen) == 2
    assert sorted(cluster.entries()) == ["10.244.1.0-24", "10.244.3.0-24"]


async def test_100_nodes_at_once_all_get_a_subnet_of_their_own(cluster: Cluster) -> None:
    """All publish in the same moment and lose races, since the very last of 100 subnets is needed."""
    cluster.define(SubnetMin="10.244.1.0", SubnetMax="10.244.100.0")
    nodes = [cluster.registry() for _ in range(100)]
    async with asyncio.timeout(60):
        held = await asyncio.gather(*(node.publish({4: vtep(number)}) for number, node in enumerate(nodes)))
    subnets = {lease.subnet for leases in held for lease in leases}
    assert len(subnets) == 100
    assert len(cluster.entries()) == 100


async def test_dual_stack_nodes_at_once_share_no_subnet(cluster: Cluster) -> None:
    """Keys of one IPv4 and different IPv6 subnets differ, so no transaction on a key sees it; the later yields."""
    cluster.define(
        EnableIPv6=True,
        IPv6Network="fd00:10:244::/56",
        SubnetMin="10.244.1.0",
        SubnetMax="10.244.16.0",
        IPv6SubnetMin="fd00:10:244:1::",
        IPv6SubnetMax="fd00:10:244:10::",
    )
    nodes = [cluster.registry() for _ in range(12)]

    def vteps(number: int) -> dict[int, Vtep]:
        return {4: vtep(number), 6: Vtep(IPv6Address("fd00::1") + number, vtep(number + 100).mac)}

    async with asyncio.timeout(60):
        held = await asyncio.gather(*(node.publish(vteps(number)) for number, node in enumerate(nodes)))
    assert len({lease.subnet for leases in held for lease in leases}) == 24
    assert len(cluster.entries()) == 12
    assert all(name.count("&") == 1 for name in cluster.entries())


async def test_the_lease_is_renewed_in_time_and_peers_hear_nothing(cluster: Cluster) -> None:
    """An hour before its day is over it gets another etcd lease; a peer that follows is told of no change."""
    clock = Clock()
    registry, peer = cluster.registry(clock=clock, sleep=clock.sleep), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    first = cluster.lease_of(key)
    async with aclosing(registry.watch()) as events, aclosing(peer.watch()) as seen:
        follower = Follower(seen)
        await follower.until(own)
        await anext(events)
        running = asyncio.ensure_future(anext(events))
        clock.advance(TTL_S - 3601)
        await asyncio.sleep(0.05)
        assert cluster.lease_of(key) == first
        clock.advance(1)
        second = await until_entry(cluster, key, first)
        assert second > 0
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        event = await follower.next()
        assert not isinstance(event, Snapshot)
        assert {lease.vtep for lease in event.added} == {vtep(1)}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert min(clock.slept) >= 0


async def test_an_own_entry_that_is_deleted_is_put_back(cluster: Cluster) -> None:
    """Flanneld shuts down; here the subnet, if free, is ours again, with a TTL."""
    registry, peer = cluster.registry(), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    async with aclosing(peer.watch()) as seen, Reading(registry):
        follower = Follower(seen)
        await follower.until(own)
        before = cluster.lease_of(key)
        cluster.delete(f"subnets/{key}")
        assert await until_entry(cluster, key, before) > 0
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        await follower.until(own, Lease(IPv4Network("10.244.200.0/24"), vtep(1)))


async def test_an_own_entry_that_is_garbled_is_put_right(cluster: Cluster) -> None:
    """A slip of an administrator's hand does not cost the node its subnet, nor its peers the way to it."""
    registry, peer = cluster.registry(), cluster.registry()
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    right = cluster.entries()[key]
    async with aclosing(peer.watch()) as seen, Reading(registry):
        follower = Follower(seen)
        await follower.until(own)
        cluster.put(f"subnets/{key}", "{oops")
        await until_entry(cluster, key, 0)
        cluster.put("subnets/10.244.200.0-24", text(Lease(IPv4Network("10.244.200.0/24"), vtep(1))))
        await follower.until(own, Lease(IPv4Network("10.244.200.0/24"), vtep(1)))
    assert cluster.entries()[key] == right


async def test_an_entry_put_again_without_a_ttl_becomes_a_reservation(cluster: Cluster) -> None:
    """How flannel's handbook says to reserve: the value as it is, put without a lease. Renewing must not undo it."""
    clock = Clock()
    registry = cluster.registry(clock=clock, sleep=clock.sleep)
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    async with Reading(registry):
        cluster.put(f"subnets/{key}", cluster.entries()[key])
        await until(lambda: registry._holder.held is not None and registry._holder.held.record.permanent)
        clock.advance(TTL_S)
        await asyncio.sleep(0.05)
    assert cluster.lease_of(key) == 0


@pytest.mark.parametrize(
    ("thief", "reason"),
    [
        (vtep(1), r"the lease on .* is that of the node at 192\.168\.0\.2 now"),
        (
            Vtep(OWN.address, Mac(0x3A87CF81FFFF)),
            r"taken by another daemon that publishes 192\.168\.0\.1: .*one daemon",
        ),
    ],
)
async def test_an_own_entry_that_another_node_took_is_lost(cluster: Cluster, thief: Vtep, reason: str) -> None:
    """Two nodes on one subnet would each swallow the other's traffic: this one stops, and says why."""
    registry = cluster.registry()
    (own,) = await registry.publish({4: OWN})
    async with aclosing(registry.watch()) as events:
        await anext(events)
        cluster.put(f"subnets/{name(own)}", text(Lease(own.subnet, thief)))
        async with asyncio.timeout(10):
            with pytest.raises(LeaseLostError, match=reason):
                await anext(events)


async def test_a_subnet_given_away_while_the_entry_was_gone_is_lost(cluster: Cluster) -> None:
    """Under another key: nobody would notice before pods of two nodes have one address."""
    cluster.define(SubnetLen=24)
    registry = cluster.registry(sleep=quickly)
    (own,) = await registry.publish({4: OWN})
    key = name(own)
    wider = IPv4Network(own.subnet).supernet(1)
    changes = (
        f"\ndel {cluster.prefix}/subnets/{key}\nput {cluster.prefix}/subnets/{str(wider).replace('/', '-')} {{}}\n\n\n"
    )
    async with aclosing(registry.watch()) as events:
        await anext(events)
        await asyncio.to_thread(cluster.server.ctl, "txn", stdin=changes)
        async with asyncio.timeout(10):
            with pytest.raises(LeaseLostError, match="was deleted, and another node has the subnet"):
                await anext(events)
    assert list(cluster.entries()) == [str(wider).replace("/", "-")]


async def test_a_node_with_a_new_address_keeps_its_entry(cluster: Cluster) -> None:
    """Published again under another address: one entry, the same subnet."""
    registry = cluster.registry()
    (before,) = await registry.publish({4: OWN})
    moved = Vtep(IPv4Address("192.168.0.77"), OWN.mac)
    assert await registry.publish({4: moved}) == {Lease(before.subnet, moved)}
    assert len(cluster.entries()) == 1


async def test_ipv6_alone_is_refused(cluster: Cluster) -> None:
    """Flannel's keys cannot name it: its second node would loop for ever."""
    cluster.define(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd00:10:244::/56")
    with pytest.raises(ConfigError, match="cannot name IPv6 alone") as refused:
        await cluster.registry().net_conf()
    assert refused.value.key == f"{cluster.prefix}/config in etcd: EnableIPv4"


async def test_a_family_without_a_vtep_is_refused(cluster: Cluster) -> None:
    """A dual-stack network on a node whose underlay has IPv4 only."""
    cluster.define(EnableIPv6=True, IPv6Network="fd00:10:244::/56")
    with pytest.raises(StartError, match="needs VTEPs with IPv6 addresses"):
        await cluster.registry().publish({4: OWN})
