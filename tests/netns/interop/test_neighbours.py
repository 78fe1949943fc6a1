"""Neighbours: ARP and neighbour discovery over the overlay, restored entries, and addresses without a lease.

    pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)

flannel needs no ARP: its neighbours are permanent. These tests remove them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .conftest import every_data_path
from .lab import FAMILIES, Family, Lab
from .ns import Ns, wait_until
from .traffic import ping

pytestmark = [pytest.mark.netns, every_data_path]

both_families = pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])

EVERYONE = "00:00:00:00:00:00"  # the FDB's default entry: floods broadcasts to its destination
NOBODY: dict[Family, str] = {4: "10.244.99.0/24", 6: "fd00:10:244:99::/64"}


def learned(ns: Ns, address: str) -> str | None:
    """Return the MAC that the kernel has learned for an address on flannel.1."""
    entries = ns.ip_json(f"neigh show {address} dev flannel.1")
    return next((entry["lladdr"] for entry in entries if "lladdr" in entry), None)


@contextmanager
def direct_route(ns: Ns, address: str) -> Iterator[None]:
    """A route unlike flannel's, for which the kernel must resolve the neighbour itself."""
    ns.ip(f"route add {address} dev flannel.1 proto static")
    try:
        yield
    finally:
        ns.ip(f"route del {address} dev flannel.1 proto static")
        ns.ip("neigh flush dev flannel.1")


@pytest.mark.parametrize("command", ["neigh flush dev flannel.1", "neigh flush dev flannel.1 nud all"])
def test_flush_at_vxland(lab: Lab, command: str) -> None:
    """After `ip neigh flush`, with or without permanent entries, traffic continues and the entries are restored."""
    before = lab.vxland.neighbours()
    assert before == {lab.b.base[family]: lab.b.mac() for family in FAMILIES}
    lab.a.ns.ip(command)
    ping(lab.a.pod_ns, lab.b.pod[4])
    ping(lab.a.pod_ns, lab.b.pod[6])
    ping(lab.b.pod_ns, lab.a.pod[4])
    wait_until(lambda: lab.vxland.neighbours() == before, "the permanent neighbours are back", lab.vxland.said)


@both_families
def test_a_deleted_neighbour_is_answered_for_at_once(lab: Lab, family: Family) -> None:
    """A packet right after the deletion is answered: it need not wait for the reconciler."""
    for _ in range(5):
        lab.a.ns.ip(f"neigh del {lab.b.base[family]} dev flannel.1")
        ping(lab.a.ns, lab.b.pod[family])


@both_families
def test_vxland_answers_for_leased_subnets(lab: Lab, family: Family) -> None:
    """ARP requests and neighbour solicitations for any leased address get its VTEP's MAC; again after a flush."""
    target = lab.b.pod[family]
    with direct_route(lab.a.ns, target):
        for _ in range(2):
            assert learned(lab.a.ns, target) is None
            ping(lab.a.ns, target)
            assert learned(lab.a.ns, target) == lab.b.mac()
            lab.a.ns.ip("neigh flush dev flannel.1")


def test_arp_from_the_peer_is_answered_by_the_kernel_behind_vxland(lab: Lab) -> None:
    """A peer without the permanent entry asks by broadcast and learns the MAC, after a flush too."""
    a, b = lab.a, lab.b
    mac = a.mac()
    flood = ("bridge", "fdb", "append", EVERYONE, "dev", "flannel.1", "dst", a.vtep)
    b.ns.run(*flood)
    b.ns.ip(f"neigh del {a.base[4]} dev flannel.1")
    b.ns.ip(f"neigh del {a.base[6]} dev flannel.1")
    try:
        for _ in range(2):
            for family in FAMILIES:
                assert learned(b.ns, a.base[family]) is None
                ping(b.ns, a.pod[family])
                assert learned(b.ns, a.base[family]) == mac
            b.ns.ip("neigh flush dev flannel.1")
    finally:
        b.ns.run("bridge", "fdb", "del", *flood[3:])
        lab.kernel.add_peer(a, mac)


@pytest.mark.parametrize("place", ["host", "pod"])
@both_families
def test_a_destination_without_lease_is_reported_to_the_sender(lab: Lab, family: Family, place: str) -> None:
    """A packet that the host routes to flannel.1 for a subnet without a lease: ICMP net unreachable, at once."""
    a = lab.a
    gateway = NOBODY[family].partition("/")[0]
    target = f"{gateway}5" if family == 6 else "10.244.99.5"
    a.ns.batch(
        f"neigh add {gateway} lladdr 02:00:00:00:00:99 dev flannel.1 nud stale",
        f"route add {NOBODY[family]} via {gateway} dev flannel.1 onlink proto static",
    )
    try:
        source = a.ns if place == "host" else a.pod_ns
        done = source.attempt("ping", "-c", "1", "-W", "5", target)
    finally:
        a.ns.ip(f"route del {NOBODY[family]} dev flannel.1 proto static")
        a.ns.ip(f"neigh del {gateway} dev flannel.1")
    assert done.returncode == 1
    assert "+1 errors" in done.stdout
    assert {4: "Destination Net Unreachable", 6: "No route"}[family] in done.stdout
