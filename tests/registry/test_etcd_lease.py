"""The entry of this node in a real etcd: taken, kept, renewed, restored."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network

import pytest

from tests.registry.cluster import NETWORK, Cluster, name, text, vtep
from vxland.model.errors import ConfigError, StartError
from vxland.model.lease import Lease, Mac, Vtep
from vxland.reconcile.subnet_env import render, write
from vxland.registry.etcd.formats import EtcdClaim, read
from vxland.registry.etcd.own_lease import TTL_S
from vxland.registry.net_conf import NetConf

pytestmark = pytest.mark.packages  # etcd

OWN = vtep(0)


def own_lease(subnet: str) -> Lease:
    """Return our lease on a subnet."""
    return Lease(ip_network(subnet), OWN)


def write_subnet_env(cluster: Cluster, subnet: str) -> None:
    """Write the subnet.env of an earlier run."""
    write(cluster.folder / "subnet.env", render([ip_network(NETWORK)], [ip_network(subnet)], 1450, ip_masq=False))


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
    """After a restart, subnet and MAC stay as the peers know them, whatever is in subnet.env."""
    old = Vtep(OWN.address, Mac(0x3A87CF81FFFF))
    cluster.put("subnets/10.244.9.0-24", text(Lease(IPv4Network("10.244.9.0/24"), old)), cluster.grant(600))
    write_subnet_env(cluster, "10.244.7.0/24")
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {4: old.mac}
    assert await registry.publish({4: OWN}) == {own_lease("10.244.9.0/24")}
    assert list(cluster.entries()) == ["10.244.9.0-24"]


async def test_an_escape_hides_no_own_entry(cluster: Cluster) -> None:
    """JSON may spell our address with escapes; the entry is ours all the same."""
    value = text(own_lease("10.244.9.0/24")).replace(".0.1", r"\u002e0.1")
    assert str(OWN.address) not in value
    cluster.put("subnets/10.244.9.0-24", value, cluster.grant(600))
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {4: OWN.mac}
    assert await registry.publish({4: OWN}) == {own_lease("10.244.9.0/24")}


async def test_the_entries_of_others_are_not_parsed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start among 5,000 leases parsed them all, once for the MAC and once for the subnet, before it followed them."""
    for number in range(1, 6):
        cluster.put(f"subnets/10.244.{number}.0-24", text(Lease(ip_network(f"10.244.{number}.0/24"), vtep(number))))
    cluster.put("subnets/10.244.9.0-24", text(own_lease("10.244.9.0/24")), cluster.grant(600))
    parsed = []

    def recorded(key: str, value: bytes, conf: NetConf) -> EtcdClaim:
        parsed.append(key)
        return read(key, value, conf)

    monkeypatch.setattr("vxland.registry.etcd.own_lease.read", recorded)
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {4: OWN.mac}
    assert await registry.publish({4: OWN}) == {own_lease("10.244.9.0/24")}
    assert set(parsed) == {"10.244.9.0-24"}


async def test_recall_knows_nothing_of_others(cluster: Cluster) -> None:
    """No entry with our address, or no address yet: no MAC."""
    cluster.put("subnets/10.244.9.0-24", text(Lease(IPv4Network("10.244.9.0/24"), vtep(1))))
    registry = cluster.registry()
    assert (await registry.recall({4: OWN.address})).macs == {}
    assert (await registry.recall({})).macs == {}


async def test_the_previous_subnet_is_taken_again(cluster: Cluster) -> None:
    """The entry expired while the node was down; its pods still have addresses of that subnet."""
    write_subnet_env(cluster, "10.244.7.0/24")
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.7.0/24")}


@pytest.mark.parametrize("previous", ["10.244.7.0/24", "10.244.7.0/25", "10.99.7.0/24", "10.244.0.0/24"])
async def test_a_previous_subnet_that_cannot_be_is_not_taken(cluster: Cluster, previous: str) -> None:
    """The subnet is another node's now, of another size, outside the network, or before SubnetMin."""
    cluster.put("subnets/10.244.7.0-24", text(Lease(IPv4Network("10.244.7.0/24"), vtep(1))))
    write_subnet_env(cluster, previous)
    (lease,) = await cluster.registry().publish({4: OWN})
    assert str(lease.subnet) not in {previous, "10.244.7.0/24"}
    assert lease.subnet.prefixlen == 24


async def test_an_own_entry_that_no_longer_fits_is_replaced(cluster: Cluster) -> None:
    """The network has new sizes: the transaction that writes the new claim deletes the old one."""
    cluster.put("subnets/10.244.9.0-25", text(Lease(IPv4Network("10.244.9.0/25"), OWN)), cluster.grant(600))
    (lease,) = await cluster.registry().publish({4: OWN})
    assert lease.subnet.prefixlen == 24
    assert list(cluster.entries()) == [name(lease)]


async def test_a_reservation_stays_without_a_ttl(cluster: Cluster) -> None:
    """Flannel's next start would turn it into a lease of a day; vxland fills it in and keeps it permanent."""
    cluster.put("subnets/10.244.9.0-24", '{"PublicIP":"192.168.0.1"}')
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.9.0/24")}
    assert cluster.lease_of("10.244.9.0-24") == 0
    assert '"VtepMAC":"3a:87:cf:81:00:00"' in cluster.entries()["10.244.9.0-24"]


async def test_anothers_reservation_is_not_taken(cluster: Cluster) -> None:
    """One of two subnets is reserved for another node: a third node finds no free subnet."""
    cluster.define(SubnetLen=24, SubnetMin="10.244.4.0", SubnetMax="10.244.5.0")
    cluster.put("subnets/10.244.4.0-24", '{"PublicIP":"192.168.0.9"}')
    assert await cluster.registry().publish({4: OWN}) == {own_lease("10.244.5.0/24")}
    with pytest.raises(
        StartError, match=r"out of subnets: all 2 of length /24 in 10\.244\.0\.0/16 are taken; .*delete"
    ):
        await cluster.registry().publish({4: vtep(2)})


async def test_a_lost_race_is_run_again(cluster: Cluster) -> None:
    """Another node takes the subnet between our listing and our write; flanneld exits then."""
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
    """All publish at the same time and lose races, because all 100 subnets are needed."""
    cluster.define(SubnetMin="10.244.1.0", SubnetMax="10.244.100.0")
    nodes = [cluster.registry() for _ in range(100)]
    async with asyncio.timeout(60):
        held = await asyncio.gather(*(node.publish({4: vtep(number)}) for number, node in enumerate(nodes)))
    subnets = {lease.subnet for leases in held for lease in leases}
    assert len(subnets) == 100
    assert len(cluster.entries()) == 100


async def test_dual_stack_nodes_at_once_share_no_subnet(cluster: Cluster) -> None:
    """Keys with one IPv4 and different IPv6 subnets differ, so no transaction detects it; the later yields."""
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


async def test_a_node_with_a_new_address_keeps_its_entry(cluster: Cluster) -> None:
    """The node publishes another address: there is one entry, with the same subnet."""
    registry = cluster.registry()
    (before,) = await registry.publish({4: OWN})
    moved = Vtep(IPv4Address("192.168.0.77"), OWN.mac)
    assert await registry.publish({4: moved}) == {Lease(before.subnet, moved)}
    assert len(cluster.entries()) == 1


async def test_an_entry_from_before_the_address_changed_is_kept(cluster: Cluster) -> None:
    """A new process has another address, and the previous pods and device: it keeps the subnet."""
    (before,) = await cluster.registry().publish({4: OWN})
    write_subnet_env(cluster, str(before.subnet))
    moved = Vtep(IPv4Address("192.168.0.77"), OWN.mac)
    assert await cluster.registry().publish({4: moved}) == {Lease(before.subnet, moved)}
    entry = text(Lease(before.subnet, moved))
    assert {key: json.loads(found) for key, found in cluster.entries().items()} == {name(before): json.loads(entry)}


@pytest.mark.parametrize(("mac", "previous"), [(Mac(0x3A87CF81FFFF), "10.244.9.0/24"), (OWN.mac, "10.244.7.0/24")])
async def test_the_entry_of_another_node_is_not_kept(cluster: Cluster, mac: Mac, previous: str) -> None:
    """It has our former subnet and another MAC, or our MAC and another subnet: neither makes it ours."""
    entry = text(Lease(IPv4Network("10.244.9.0/24"), Vtep(vtep(1).address, mac)))
    cluster.put("subnets/10.244.9.0-24", entry, cluster.grant(600))
    write_subnet_env(cluster, previous)
    (lease,) = await cluster.registry().publish({4: OWN})
    assert lease.subnet != IPv4Network("10.244.9.0/24")
    assert cluster.entries()["10.244.9.0-24"] == entry


async def test_ipv6_alone_is_refused(cluster: Cluster) -> None:
    """Flannel's keys cannot name it: its second node would loop forever."""
    cluster.define(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd00:10:244::/56")
    with pytest.raises(ConfigError, match="cannot name IPv6 alone") as refused:
        await cluster.registry().net_conf()
    assert refused.value.key == f"{cluster.prefix}/config in etcd: EnableIPv4"


async def test_a_family_without_a_vtep_is_refused(cluster: Cluster) -> None:
    """The network is dual-stack, and the node's underlay has only IPv4."""
    cluster.define(EnableIPv6=True, IPv6Network="fd00:10:244::/56")
    with pytest.raises(StartError, match="needs VTEPs with IPv6 addresses"):
        await cluster.registry().publish({4: OWN})
