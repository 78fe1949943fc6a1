"""What keeps a node's kernel from forwarding, with firewalls that cannot be read, and sysctls of a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from structlog.testing import capture_logs

from vxland.firewall.forward_check import MAX_CHAINS, MAX_RULES, Forwarding, sysctl_problems
from vxland.model.errors import StartError
from vxland.model.lease import Address

OWN, NETWORK = ip_network("10.244.0.0/24"), ip_network("10.244.0.0/16")


class Rules:
    """A firewall with one iptables chain that leads through all others, of which there is no end."""

    def __init__(self) -> None:
        self.installed = True
        self.policy = "drop"
        self.read = 0

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """FORWARD of iptables, and a chain that no IPv4 packet passes."""
        if not self.installed:
            raise StartError("nft is not installed", "install it")
        return [
            {"family": "ip", "table": "filter", "name": "FORWARD", "policy": self.policy},
            {"family": "ip6", "table": "own", "name": "fwd", "policy": "drop"},
        ]

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """Not asked for."""
        raise AssertionError((family, table, chain))

    def legacy_in_use(self, family: Literal[4, 6]) -> bool:
        """Not here."""
        return family == 6

    async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
        """Each chain jumps to the next one."""
        assert (family, table, backend) == (4, "filter", "nft")
        self.read += 1
        number = int(chain.removeprefix("C")) if chain != "FORWARD" else 0
        return [f"-A {chain} -j C{number + 1}"] if self.policy == "accept" else []


async def to_pods(address: Address) -> str:
    """All lie behind the bridge."""
    assert address in OWN
    return "cni0"


def made(rules: Rules, sysctl: Path) -> Forwarding:
    """Of a node with a subnet."""
    found = Forwarding("flannel.1", [NETWORK], rules, to_pods, sysctl)
    found.own = (OWN,)
    return found


def test_rules_that_cannot_be_read(tmp_path: Path) -> None:
    """They are not known, which is no problem; what is lost is told once, and once that it is not any more."""

    async def play() -> None:
        rules = Rules()
        forwarding = made(rules, tmp_path)
        with capture_logs() as logs:
            await forwarding.look()
            await forwarding.look()
            assert [problem.direction for problem in forwarding.problems] == ["encap", "decap"]
            assert "policy drop" in forwarding.problems[0].cause
            rules.installed = False
            await forwarding.look()
        assert (forwarding.problems, "nft is not installed" in forwarding.unknown) == ((), True)
        assert [each["event"] for each in logs] == ["pods_not_forwarded", "pods_not_forwarded", "pods_forwarded"]

    asyncio.run(play())


def test_chains_without_end(tmp_path: Path) -> None:
    """So many are read at most, once for both directions; what lies beyond may accept."""

    async def play() -> None:
        rules = Rules()
        rules.policy = "accept"
        forwarding = made(rules, tmp_path)
        await forwarding.look()
        assert forwarding.problems == ()
        assert rules.read == MAX_CHAINS

    asyncio.run(play())


def test_a_fresh_answer_is_not_looked_for_again(tmp_path: Path) -> None:
    """A question again and again starts no programs each time."""

    async def play() -> None:
        rules = Rules()
        forwarding = made(rules, tmp_path)
        await forwarding.look()
        read = rules.read
        await forwarding.look_for(1e6)
        assert rules.read == read

    asyncio.run(play())


def test_a_chain_of_very_many_rules(tmp_path: Path) -> None:
    """As of a list of blocked addresses: the first ones are looked at, and behind them anything may be accepted."""

    class Long(Rules):
        """One chain."""

        length = MAX_RULES - 1

        async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
            """Addresses that are none of the overlay's."""
            await super().listing(family, table, chain, backend)
            return [f"-A {chain} -s 192.0.2.1/32 -j DROP"] * self.length

    async def play() -> None:
        rules = Long()
        forwarding = made(rules, tmp_path)
        await forwarding.look()
        found = [len(forwarding.problems)]
        rules.length = MAX_RULES + 1
        await forwarding.look()
        assert [*found, len(forwarding.problems)] == [2, 0]

    asyncio.run(play())


def test_rules_of_an_unknown_shape(tmp_path: Path) -> None:
    """They are not known, and end nothing."""

    class Odd(Rules):
        """An nft of the future."""

        async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
            """No objects."""
            odd: Any = ["chain"]
            return odd  # type: ignore[no-any-return]

    async def play() -> None:
        forwarding = made(Odd(), tmp_path)
        await forwarding.look()
        assert "in an unknown way" in forwarding.unknown

    asyncio.run(play())


def put(root: Path, key: str, value: str) -> None:
    """Write a sysctl."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value)


def causes(root: Path, version: int, bridge: str = "cni0") -> list[str]:
    """What is in the way, in short."""
    return [problem.cause.partition(" is 0")[0] for problem in sysctl_problems(root, version, "flannel.1", bridge)]


def test_sysctls(tmp_path: Path) -> None:
    """The node's, and each interface's; IPv6 has the node's alone, and since 6.17 a way round it."""
    assert causes(tmp_path, 4) == causes(tmp_path, 6) == []  # not readable: not known
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
