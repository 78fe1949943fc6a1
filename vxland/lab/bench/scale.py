"""Costs that grow with the cluster: a daemon's memory with 1,000 leases, time of a lookup among 10,000. Run once."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from timeit import timeit

import yaml

from vxland.datapath.prefix_map import PrefixMap
from vxland.lab import shell, traffic, vtep
from vxland.lab.bench import load, resources
from vxland.lab.bench.load import Ends
from vxland.lab.bench.subjects import memory_pids
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, OVERLAY
from vxland.model.errors import StartError
from vxland.model.lease import Lease, Mac, Vtep

LEASES = 1_000
UNDERLAYS = IPv4Network("172.16.0.0/12")
"""Network of the VTEPs' addresses of invented leases."""
FEW, MANY = 10, 10_000
LOOKUPS = 20_000  # addresses looked up in one timing, spread over the leases
TIMINGS = 51
ROUTES_S = 60.0


def leases() -> Iterator[Lease]:
    """Yield leases of /24 subnets of 10.0.0.0/8, each with another VTEP, none of which the demo's nodes have."""
    for number in range(1 << 15):
        subnet = IPv4Network((int(IPv4Address("10.0.0.0")) + (number << 8), 24))
        yield Lease(subnet, Vtep(UNDERLAYS[number + 1], Mac(0x02_00_00_00_00_00 + number)))


def lookup_ratio() -> float:
    """Return the time of a lookup among MANY leases over that among FEW, in this process's gear.

    Takes the best timings of each, because other load can only slow a timing down; the two alternate nevertheless.
    Both times include the call from Python; tests/bench times the whole encap() for comparison. The time of a table's
    lookup is that of its map of subnets.
    """
    few, many = (asking(list(islice(leases(), count))) for count in (FEW, MANY))
    timings = [(timeit(few, number=1), timeit(many, number=1)) for _ in range(TIMINGS)]
    return min(slow for _, slow in timings) / min(fast for fast, _ in timings)


def asking(chosen: list[Lease]) -> Callable[[], None]:
    """Return a job that looks up LOOKUPS addresses."""
    subnets = PrefixMap(32)
    for number, lease in enumerate(chosen):  # results below 256 are no new objects, which frames do not make either
        subnets.put(0, int(lease.subnet.network_address), lease.subnet.prefixlen, number % 256)
    find = subnets.lookup
    stride = len(chosen) * 7 // 11  # in an order that no cache can predict
    # Addresses are integers of an array: objects would push the table out of the CPU's cache, which frames do not.
    keys = array("Q", [int(chosen[i * stride % len(chosen)].subnet[9]) for i in range(LOOKUPS)])

    def ask() -> None:
        for key in keys:
            find(0, key)

    return ask


def memory_mib() -> float:
    """Return the resident memory of a vxland with one worker and LEASES leases, after all routes are in and TCP ran."""
    lab = Lab()
    left, right = NODES
    try:
        lab.build()
        vtep.start_vxland(lab, left, _crowded(vtep.config_of(lab, left)), pure=False)
        vtep.start_vxland(lab, right, vtep.config_of(lab, right), pure=False)
        for node in NODES:
            vtep.wait_ready(lab, node)
        _await_routes(lab)
        with traffic.iperf_server(lab, right):
            load.tcp(Ends(lab, left, right), 1, 1)
        return resources.rss_mib(memory_pids(lab, left))
    finally:
        lab.remove()


def _crowded(config: str) -> str:
    """Return the node's configuration with LEASES peers: the other node, and invented ones."""
    settings = yaml.safe_load(config)
    settings["datapath"] = {"workers": 1}
    settings["overlay"]["network"] = "10.0.0.0/8"
    settings["registry"]["peers"] += [
        {"subnet": str(lease.subnet), "vtep": str(lease.vtep.address), "mac": str(lease.vtep.mac)}
        for lease in islice(leases(), LEASES - 1)
    ]
    text: str = yaml.safe_dump(settings)
    return text


def _await_routes(lab: Lab) -> None:
    """Return once node 1 has a route for each lease."""
    end = time.monotonic() + ROUTES_S
    command = ("ip", "-n", lab.namespace(NODES[0]), "route", "show", "dev", OVERLAY)
    while (routes := shell.attempt(command).stdout.count("\n")) < LEASES:
        if time.monotonic() > end:
            raise StartError(
                f"{routes} of {LEASES} routes after {ROUTES_S:.0f} s", "run `vxland run` manually to see why"
            )
        time.sleep(0.2)
