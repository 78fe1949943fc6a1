"""The forwarding check, with unreadable or endless firewall rules, and sysctls of a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from structlog.testing import capture_logs

from vxland.firewall.forward_check import MAX_CHAINS, MAX_RULES, ForwardCheck, sysctl_problems
from vxland.model.errors import StartError
from vxland.model.lease import Address

OWN, NETWORK = ip_network("10.244.0.0/24"), ip_network("10.244.0.0/16")


class Rules:
    """A firewall with one iptables chain that jumps through others without end."""

    def __init__(self) -> None:
        self.installed = True
        self.policy = "drop"
        self.read = 0

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """List FORWARD of iptables, and a chain that no IPv4 packet passes."""
        if not self.installed:
            raise StartError("nft is not installed", "install it")
        return [
            {"family": "ip", "table": "filter", "name": "FORWARD", "policy": self.policy},
            {"family": "ip6", "table": "own", "name": "fwd", "policy": "drop"},
        ]

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """Fail: nobody reads these."""
        raise AssertionError((family, table, chain))

    def legacy_in_use(self, family: Literal[4, 6]) -> bool:
        """Answer no for IPv4."""
        return family == 6

    async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
        """List a jump to the next chain."""
        assert (family, table, backend) == (4, "filter", "nft")
        self.read += 1
        number = int(chain.removeprefix("C")) if chain != "FORWARD" else 0
        return [f"-A {chain} -j C{number + 1}"] if self.policy == "accept" else []


async def to_pods(address: Address) -> str:
    """Name the bridge for every pod."""
    assert address in OWN
    return "cni0"


def made(rules: Rules, sysctl: Path) -> ForwardCheck:
    """Make the check of a node with a subnet."""
    found = ForwardCheck("flannel.1", [NETWORK], rules, to_pods, sysctl)
    found.own = (OWN,)
    return found


def test_rules_that_cannot_be_read(tmp_path: Path) -> None:
    """They are unknown, which is no problem; a loss is logged once, and its end once."""

    async def play() -> None:
        rules = Rules()
        forwarding = made(rules, tmp_path)
        with capture_logs() as logs:
            await forwarding.check()
            await forwarding.check()
            assert [problem.direction for problem in forwarding.problems] == ["encap", "decap"]
            assert "policy drop" in forwarding.problems[0].cause
            rules.installed = False
            await forwarding.check()
        assert (forwarding.problems, "nft is not installed" in forwarding.unknown) == ((), True)
        assert [each["event"] for each in logs] == ["pods_not_forwarded", "pods_not_forwarded", "pods_forwarded"]

    asyncio.run(play())


def test_chains_without_end(tmp_path: Path) -> None:
    """MAX_CHAINS are read at most, once for both directions; rules beyond may accept."""

    async def play() -> None:
        rules = Rules()
        rules.policy = "accept"
        forwarding = made(rules, tmp_path)
        await forwarding.check()
        assert forwarding.problems == ()
        assert rules.read == MAX_CHAINS

    asyncio.run(play())


def test_a_fresh_result_is_not_computed_again(tmp_path: Path) -> None:
    """Frequent requests do not start programs each time."""

    async def play() -> None:
        rules = Rules()
        forwarding = made(rules, tmp_path)
        await forwarding.check()
        read = rules.read
        await forwarding.refresh(1e6)
        assert rules.read == read

    asyncio.run(play())


def test_a_chain_of_very_many_rules(tmp_path: Path) -> None:
    """Of a long list of blocked addresses the first rules are evaluated; the rest may accept anything."""

    class Long(Rules):
        """One chain."""

        length = MAX_RULES - 1

        async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
            """List addresses outside the overlay."""
            await super().listing(family, table, chain, backend)
            return [f"-A {chain} -s 192.0.2.1/32 -j DROP"] * self.length

    async def play() -> None:
        rules = Long()
        forwarding = made(rules, tmp_path)
        await forwarding.check()
        found = [len(forwarding.problems)]
        rules.length = MAX_RULES + 1
        await forwarding.check()
        assert [*found, len(forwarding.problems)] == [2, 0]

    asyncio.run(play())


def test_rules_of_an_unknown_shape(tmp_path: Path) -> None:
    """They are unknown, and the check goes on."""

    class Odd(Rules):
        """An nft of the future."""

        async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
            """List something other than objects."""
            odd: Any = ["chain"]
            return odd  # type: ignore[no-any-return]  # as JSON has it

    async def play() -> None:
        forwarding = made(Odd(), tmp_path)
        await forwarding.check()
        assert "in an unknown form" in forwarding.unknown

    asyncio.run(play())


def put(root: Path, key: str, value: str) -> None:
    """Write a sysctl."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)


def causes(root: Path, version: int, bridge: str = "cni0") -> list[str]:
    """Return the beginning of each cause."""
    return [problem.cause.partition(" is ")[0] for problem in sysctl_problems(root, version, "flannel.1", bridge)]


def test_sysctls(tmp_path: Path) -> None:
    """IPv4 has the node's and each interface's; IPv6 has the node's alone, and since 6.17 an exception."""
    assert causes(tmp_path, 4) == causes(tmp_path, 6) == []  # unreadable: unknown
    put(tmp_path, "ipv4/ip_forward", "1\n")
    put(tmp_path, "ipv4/conf/eth0.7/forwarding", "0\n")
    put(tmp_path, "ipv4/conf/flannel.1/forwarding", "0\n")
    assert causes(tmp_path, 4, "eth0.7") == [
        "net.ipv4.conf.eth0/7.forwarding",
        "net.ipv4.conf.flannel/1.forwarding",
    ]
    assert causes(tmp_path, 4, "") == ["net.ipv4.conf.flannel/1.forwarding"]
    put(tmp_path, "ipv4/ip_forward", "0\n")
    assert causes(tmp_path, 4) == ["net.ipv4.ip_forward"]
    put(tmp_path, "ipv6/conf/all/forwarding", "0\n")
    assert causes(tmp_path, 6) == ["net.ipv6.conf.all.forwarding"]
    put(tmp_path, "ipv6/conf/flannel.1/force_forwarding", "1\n")
    assert causes(tmp_path, 6) == []


def test_sysctls_of_a_device_to_come(tmp_path: Path) -> None:
    """Before the first start, `check --here` found nothing: the TAP then had forwarding off from `default`."""
    put(tmp_path, "ipv4/ip_forward", "1\n")
    put(tmp_path, "ipv4/conf/cni0/forwarding", "1\n")
    put(tmp_path, "ipv4/conf/default/forwarding", "0\n")
    assert causes(tmp_path, 4) == ["net.ipv4.conf.default.forwarding"]
    put(tmp_path, "ipv4/conf/flannel.1/forwarding", "1\n")
    assert causes(tmp_path, 4) == []


def test_interfaces_without_ipv6(tmp_path: Path) -> None:
    """A hardened node has IPv6 off: its device gets no address, and the node was ready without a word."""
    put(tmp_path, "ipv6/conf/all/forwarding", "1\n")
    put(tmp_path, "ipv6/conf/default/disable_ipv6", "1\n")
    put(tmp_path, "ipv6/conf/cni0/disable_ipv6", "0\n")
    (found,) = sysctl_problems(tmp_path, 6, "flannel.1", "cni0")
    assert found.cause.startswith("net.ipv6.conf.default.disable_ipv6 is 1: flannel.1 has no IPv6")
    assert (found.direction, found.remedy) == ("both", "sysctl -w net.ipv6.conf.default.disable_ipv6=0")
    put(tmp_path, "ipv6/conf/flannel.1/disable_ipv6", "0\n")
    put(tmp_path, "ipv6/conf/cni0/disable_ipv6", "1\n")
    assert causes(tmp_path, 6) == ["net.ipv6.conf.cni0.disable_ipv6"]
