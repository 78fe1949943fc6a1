"""The population of `vxland bench --leases`, its storm, and the comparison of a kernel with the store."""

from __future__ import annotations

import base64
import json
import struct
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path

import pytest

from vxland.lab import kube
from vxland.lab.bench import scale
from vxland.lab.bench.cost_report import as_json, markdown, table
from vxland.lab.bench.costs import Costs, Result, Storm, Work, growth
from vxland.lab.bench.kernel_watch import counts, parse_neighbours, parse_routes
from vxland.lab.bench.kube_leases import build_node, name_of, texts_of
from vxland.lab.bench.kube_leases import expected as expected_of_nodes
from vxland.lab.bench.population import Population
from vxland.lab.bench.stores import expected, operation, samples
from vxland.lab.etcd import LEASES, Operation, StoredLease, lease_value
from vxland.model.errors import StartError

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


def decoded(one: Operation) -> tuple[str, str]:
    """Return the key and the value, empty if the operation deletes."""
    ((_, body),) = one.items()
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
        _, value = decoded(operation(population.renewal(number)))
        assert json.loads(value)["BackendData"]["VtepMAC"] == str(population.mac(number))
        macs.append(population.mac(number))
    assert len(set(macs)) == 900


def test_no_node_is_gone_after_a_storm() -> None:
    """Nodes get a MAC, leave, return, get another; every node that left has returned before the last change."""
    for changes, hit in ((5000, 1250), (500, 20), (27, 10), (3, 3)):
        population, inside = Population(hit), set[str]()
        departures = 0
        for change in range(changes):
            key, value = decoded(operation(population.storm(change, hit, last=change + hit >= changes)))
            departures += not value
            (inside.add if value else inside.discard)(key)
        assert len(inside) == hit
        assert bool(departures) == (changes >= 2 * hit + 1)


def test_the_nodes_of_kubernetes_say_the_same() -> None:
    """A Node's podCIDR and flannel's annotation; node 1's own Node is left out."""
    first, second = islice(scale.leases(), 2)
    nodes = [
        build_node(name_of(first), str(first.subnet), texts_of(first)),
        build_node("node1", str(second.subnet), {}),
    ]
    assert expected_of_nodes(nodes) == {"10.0.0.0/24": str(first.vtep.mac)}
    assert len(json.dumps(nodes[0])) > 10_000


def test_events_of_the_underlay_do_not_count() -> None:
    """ARP entries of ens33 come and go; only permanent neighbours and routes are vxland's."""
    header = struct.Struct("=IHHII")
    for kind, state, counted in ((28, 0x80, True), (28, 0x04, False), (29, 0x20, True), (24, 0, True), (20, 0, False)):
        body = struct.pack("=BBHiHBB", 2, 0, 0, 7, state, 0, 0)
        assert counts(header.pack(header.size + len(body), kind, 0, 0, 0) + body) == counted


def test_the_metrics_of_a_server() -> None:
    """Labels and value of each sample of the name; no other metric's."""
    text = '# HELP a b\na_total{x="1",y="z"} 3\nb_total{x="1"} 4\na_total{x="2",y=""} 1e+06\na_total 7\n'
    assert list(samples(text, "a_total")) == [({"x": "1", "y": "z"}, 3.0), ({"x": "2", "y": ""}, 1e6)]


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        (None, "KUBEBUILDER_ASSETS is not set"),
        ((), "has no program kube-apiserver"),
        (("kube-apiserver",), "has no program etcd"),
    ],
)
def test_missing_programs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: tuple[str, ...] | None, said: str
) -> None:
    """Without an API server the error names the variable and the remedy."""
    monkeypatch.delenv(kube.ASSETS, raising=False)
    if programs is not None:
        monkeypatch.setenv(kube.ASSETS, str(tmp_path))
        for name in programs:
            (tmp_path / name).touch(0o755)
    with pytest.raises(StartError) as caught:
        kube.assets()
    assert said in caught.value.cause
    assert kube.ASSETS in caught.value.remedy


def costs(leases: int, factor: float) -> Costs:
    """Return a result that grows with `factor`."""
    return Costs(
        leases=leases,
        start_s=5.04,
        start_cpu_s=4.1,
        start_bytes=2_000_000,
        start_requests=9,
        rest_cpu_percent=0.1,
        rest_bytes_s=0.0,
        rest_mib=88.6,
        change_ms=[100.0 * factor, 120.0 * factor, 190.0 * factor],
        change_cpu_ms=10.0 * factor,
        work=Work(1.0, 3.0, 0.0, 0.0, 500.0),
        beat_cpu_ms=None,
        beat_bytes=None,
        storm=Storm(changes=5000, rate=500.0, cpu_percent=31.0, caught_up_s=0.4),
        peak_mib=93.0,
        held_ms={"start": 4.0, "changes": 5.0, "storm": 6.0},
    )


def test_each_number_is_next_to_its_target() -> None:
    """Sizes side by side, the growth between the last two, floor and aim; what was not counted has no row."""
    result = Result("etcd", 61.2, [costs(1000, 1.0), costs(5000, 2.0), costs(20_000, 3.0)])
    head, *others = table(result)
    assert head == ["leases in etcd", "1,000", "5,000", "20,000", "20,000 / 5,000", "floor", "aim"]
    assert all(len(row) == len(head) for row in others)
    rows = {title: found for title, *found in others}
    assert rows["a changed MAC, store to kernel: median, ms"] == ["120.0", "240.0", "360.0", "1.50", "40", "15"]
    assert rows["a changed MAC: worst, ms"][:3] == ["190.0", "380.0", "570.0"]
    assert rows["memory with 1 lease, MiB"] == ["61.2", "", "", "", "50", "40"]
    assert rows["storm: CPU, of one, %"][4:] == ["45", "20"]
    assert rows["growth: CPU time for it, with all that follows"] == ["", "", "", "1.50", "1.5", "1.1"]
    assert rows["event loop held at most: to the end, ms"][:3] == ["6.0"] * 3
    assert not [title for title in rows if "entry, written" in title]
    machine = {"date": "2026-12-01", "kernel": "6", "cpus": 2, "cpu": "x", "python": "3", "load_average": 1.0}
    assert "| leases in etcd | 1,000 |" in markdown(result, machine)
    grown = growth(result)
    assert {key for key, ratio in grown.items() if ratio != 1.0} == {"change_ms", "worst_ms", "change_cpu_ms"}
    assert grown["change_ms"] == pytest.approx(1.5)
    assert as_json(result, machine)["growth"] == grown


def test_one_size_has_no_growth() -> None:
    """A run of one size has no ratio."""
    result = Result("etcd", None, [costs(5000, 1.0)])
    assert table(result)[0] == ["leases in etcd", "5,000", "floor", "aim"]
    assert growth(result) == {}
