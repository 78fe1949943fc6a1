"""The population of `vxland bench --leases`, its storm, and the comparison of a kernel with the store."""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Address
from itertools import islice

from vxland.lab.bench import scale
from vxland.lab.bench.cluster import ClusterResult, Storm, _change, rows
from vxland.lab.bench.population import Population, expected, parse_neighbours, parse_routes
from vxland.lab.etcd import LEASES, Operation, StoredLease, lease_value

ROUTES = """\
10.0.0.0/24 via 10.0.0.0 onlink
10.0.1.0/24 via 10.0.1.0 onlink
10.9.0.0/24 scope link
"""
NEIGHBOURS = """\
10.0.0.0 lladdr 02:00:00:00:00:00 PERMANENT
10.0.2.0 lladdr 02:00:00:00:00:02 PERMANENT
"""
OWN = IPv4Address("192.168.111.128")


def decoded(operation: Operation) -> tuple[str, str]:
    """Return the key and the value, empty if the operation deletes."""
    ((_, body),) = operation.items()
    assert isinstance(body, dict)
    key, value = (base64.b64decode(body.get(name, "")).decode() for name in ("key", "value"))
    return key, value


def test_a_route_counts_with_the_mac_of_its_next_hop() -> None:
    """A route without a neighbour is not usable yet; other routes are not the store's."""
    found = parse_routes(ROUTES, parse_neighbours(NEIGHBOURS))
    assert found == {"10.0.0.0/24": "02:00:00:00:00:00", "10.0.1.0/24": ""}


def test_the_store_is_read_without_this_node() -> None:
    """A node's kernel has no route for its own lease."""
    first, second = islice(scale.leases(), 2)
    records = [
        StoredLease(f"{LEASES}10.0.0.0-24", lease_value(first.vtep.address, first.vtep.mac), 0),
        StoredLease(f"{LEASES}10.7.7.0-24", lease_value(OWN, second.vtep.mac), 0),
    ]
    assert expected(records, OWN) == {"10.0.0.0/24": str(first.vtep.mac)}


def test_every_change_gives_an_unused_mac() -> None:
    """A watch for the new MAC cannot match an old one."""
    population = Population(300)
    macs = [population.mac(number) for number in range(300)]
    for number in (*range(300), *range(300)):
        _, value = decoded(population.renewal(number))
        assert json.loads(value)["BackendData"]["VtepMAC"] == str(population.mac(number))
        macs.append(population.mac(number))
    assert len(set(macs)) == 900


def test_no_node_is_gone_after_a_storm() -> None:
    """Nodes get a MAC, leave, return, get another; every node that left has returned before the last change."""
    for changes, hit in ((5000, 1250), (500, 20), (27, 10), (3, 3)):
        population, inside = Population(hit), set[str]()
        departures = 0
        for change in range(changes):
            operation = _change(population, change, hit, last=change + hit >= changes)
            key, value = decoded(operation)
            departures += not value
            (inside.add if value else inside.discard)(key)
        assert len(inside) == hit
        assert bool(departures) == (changes >= 2 * hit + 1)


def test_each_number_is_next_to_its_target() -> None:
    """Three numbers have a target."""
    storm = Storm(changes=5000, rate=500.0, cpu_percent=31.0, caught_up_s=0.4, peak_mib=93.0)
    result = ClusterResult(5000, 5.04, 4.1, 0.1, 88.6, [100.0, 120.0, 190.0], 300.0, storm)
    found = {name: (value, target) for name, value, target in rows(result)}
    assert found["start until all are in the kernel"] == ("5.0 s", "under 10 s")
    assert found["one changed MAC, median"] == ("120 ms", "under 200 ms")
    assert found["one changed MAC, worst of 3"] == ("190 ms", "under 200 ms")
    assert found["memory at rest"] == ("89 MiB", "under 100 MiB")
    assert found["CPU at rest"] == ("0.1 %", "")
