"""Parts of the archive of `vxlandctl support` that concern the kernel: files, sysctls and programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple


class Part(NamedTuple):
    """A file of the archive, and the program that prints it."""

    name: str
    argv: tuple[str, ...]


FILES: Final = {
    "net-arp": "/proc/self/net/arp",
    "net-fib_trie": "/proc/self/net/fib_trie",
    "net-if_inet6": "/proc/self/net/if_inet6",
    "net-ipv6_route": "/proc/self/net/ipv6_route",
    "net-route": "/proc/self/net/route",
    "net-dev": "/proc/self/net/dev",
    "net-snmp": "/proc/self/net/snmp",
    "net-snmp6": "/proc/self/net/snmp6",
    "net-netstat": "/proc/self/net/netstat",
    "net-softnet_stat": "/proc/self/net/softnet_stat",
    "net-udp": "/proc/self/net/udp",
    "net-udp6": "/proc/self/net/udp6",
}

DEVICES: Final = tuple(
    f"class/net/*/{name}"
    for name in (
        "address",
        "addr_assign_type",
        "flags",
        "ifindex",
        "master/ifindex",
        "mtu",
        "operstate",
        "tx_queue_len",
    )
)
"""Patterns below /sys, for containers without iproute2."""

SYSCTLS: Final = (
    "kernel/unprivileged_bpf_disabled",
    "net/bridge/*",
    "net/core/bpf_jit_enable",
    "net/core/netdev_budget*",
    "net/core/netdev_max_backlog",
    "net/core/[rw]mem_*",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/arp_*",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ipfrag_*_thresh",
    "net/ipv4/ping_group_range",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv4/udp_*mem*",
    "net/ipv4/udp_l3mdev_accept",
    "net/ipv6/conf/*/accept_ra",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/forwarding",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "user/max_net_namespaces",
)
"""Patterns below /proc/sys."""

PROGRAMS: Final = (
    Part("kernel/links.txt", ("ip", "-details", "-statistics", "link", "show")),
    Part("kernel/addresses.txt", ("ip", "address", "show")),
    Part("kernel/routes.txt", ("ip", "-4", "route", "show", "table", "all")),
    Part("kernel/routes-ipv6.txt", ("ip", "-6", "route", "show", "table", "all")),
    Part("kernel/rules.txt", ("ip", "-4", "rule", "show")),
    Part("kernel/rules-ipv6.txt", ("ip", "-6", "rule", "show")),
    Part("kernel/qdiscs.txt", ("tc", "-statistics", "qdisc", "show")),
    Part("kernel/nft-version.txt", ("nft", "--version")),
    Part("kernel/nft-chains.txt", ("nft", "list", "chains")),
    Part("kernel/iptables-version.txt", ("iptables", "--version")),
)

_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")
_OURS: Final = re.compile(r"flannel|vxland", re.IGNORECASE)
_RULES: Final = re.compile(r"flannel|vxland|cni|dport (8472|4789)\b|^-A (FORWARD|INPUT)\b|^[*:]|^COMMIT", re.IGNORECASE)
_MAX_RULES: Final = 5000
_MAX_TABLES: Final = 8


def device_programs(devices: Iterable[str]) -> Iterator[Part]:
    """Yield what shows neighbours, tc filters and offloads of each device, once."""
    for device in dict.fromkeys(devices):
        file = _UNFIT.sub("_", device)
        yield Part(f"kernel/neighbours-{file}.txt", ("ip", "neighbour", "show", "dev", device))
        for point in ("ingress", "egress"):
            words = ("tc", "-statistics", "filter", "show", "dev", device, point)
            yield Part(f"kernel/filters-{point}-{file}.txt", words)
        yield Part(f"kernel/offloads-{file}.txt", ("ethtool", "--show-features", device))
        yield Part(f"kernel/driver-{file}.txt", ("ethtool", "--driver", device))


def nft_tables(listed: str) -> list[tuple[str, str]]:
    """Return family and name of the tables of vxland and flannel, as `nft list tables` names them."""
    words = (line.split() for line in listed.splitlines())
    found = [(each[1], each[2]) for each in words if len(each) == 3 and each[0] == "table" and _OURS.search(each[2])]
    return found[:_MAX_TABLES]


def relevant_rules(saved: str) -> str:
    """Return the tables, chains with their policies, and rules of an iptables-save that may concern the overlay.

    A node with many Services has thousands of chains; those that say nothing about the overlay are left out.
    """
    kept = []
    for line in saved.splitlines():
        is_chain = line.startswith(":")
        if _RULES.search(line) and not (is_chain and line.endswith(" - [0:0]") and not _OURS.search(line)):
            kept.append(f"{line}\n")
    more = len(kept) - _MAX_RULES
    return "".join(kept[:_MAX_RULES]) + (f"({more} more lines)\n" if more > 0 else "")
