"""Whether this node's kernel forwards between its pods and the overlay: sysctls, and the rules of its firewalls.

Both stand before and behind vxland: a node whose `net.ipv4.ip_forward` is 0, or whose FORWARD chain drops, is ready and
reachable, and loses every packet of its pods. Another node's cannot be seen from here; it says so itself.

Looked at every PERIOD_S, and when somebody asks. What cannot be read is `unknown`, and no problem.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import structlog

from vxland.firewall.forward_rules import ForwardedPacket, Rule, iptables_rule, is_lost, jumps, nft_rule
from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Subnet

PERIOD_S = 60.0
PATIENCE_S = 3.0
"""How long whoever asks waits for nft and iptables, which may wait for another one's lock."""

MAX_CHAINS = 32
"""Chains of one family and firewall that are read; what lies beyond is not known."""

MAX_RULES = 2000
"""Rules of one chain that are looked at: 10 ms."""

_SYSCTL = Path("/proc/sys/net")
_IPTABLES_TABLES = frozenset({"filter", "mangle", "security"})

_Way: TypeAlias = Literal["encap", "decap"]

log = structlog.get_logger()


class RuleReader(Protocol):
    """What has to be read; firewall/programs.py has it. The methods raise VxlandError."""

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """The base chains of nf_tables that forwarded packets pass, as nft -j lists them."""
        ...

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """The statements of each rule of a chain."""
        ...

    def legacy_in_use(self, family: Literal[4, 6]) -> bool:
        """Whether iptables' legacy filter table is there."""
        ...

    async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
        """What iptables -S says of a chain; empty where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """Why packets of pods are lost in this node's kernel: of which IP version, which way, the cause, the remedy."""

    version: int
    direction: Literal["encap", "decap", "both"]
    cause: str
    remedy: str


class Forwarding:
    """Of the pods behind `device`. `to_pods(address)` names the interface behind which a pod of this node lies."""

    def __init__(
        self,
        device: str,
        networks: Iterable[Subnet],
        firewall: RuleReader,
        to_pods: Callable[[Address], Awaitable[str]],
        sysctl: Path = _SYSCTL,
    ) -> None:
        self.problems: tuple[Problem, ...] = ()
        self.unknown = ""
        """Why the firewall's rules could not be read; empty where they could."""
        self.own: tuple[Subnet, ...] = ()
        """This node's subnets; nothing is looked at before there are any."""
        self._device = device
        self._networks = tuple(networks)
        self._firewall = firewall
        self._to_pods = to_pods
        self._sysctl = sysctl
        self._looked_at = float("-inf")
        self._turn = asyncio.Lock()
        self._read: dict[tuple[str, ...], Sequence[Any]] = {}  # chains of this look: both ways and families need them

    async def run(self, ready: asyncio.Event) -> None:
        """Look again and again until cancelled, from when the device is set up."""
        await ready.wait()
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look_for(self, max_age_s: float) -> None:
        """Look again unless that was so short ago; give up waiting after PATIENCE_S, with what is known."""
        if time.monotonic() - self._looked_at > max_age_s:
            looking = asyncio.ensure_future(self.look())
            await asyncio.wait({looking}, timeout=PATIENCE_S)

    async def look(self) -> None:
        """Find out what is in the way now, and log what is new."""
        async with self._turn:
            if not self.own:
                return
            self._read.clear()
            found: list[Problem] = []
            unknown: list[str] = []
            for own in self.own:
                bridge = await self._to_pods(own[min(2, own.num_addresses - 1)])
                found += sysctl_problems(self._sysctl, own.version, self._device, bridge)
                try:
                    found += [problem async for problem in self._firewalls(own, bridge)]
                except VxlandError as exc:
                    unknown.append(str(exc))
                except (AttributeError, LookupError, TypeError, ValueError) as exc:  # of another version of nft
                    unknown.append(f"nft or iptables lists rules in an unknown way: {type(exc).__name__}: {exc}")
            self._looked_at = time.monotonic()
            self.unknown = "; ".join(dict.fromkeys(unknown))
            before, self.problems = self.problems, tuple(found)
        for problem in found:
            if problem not in before:
                log.warning("pods_not_forwarded", device=self._device, cause=problem.cause, remedy=problem.remedy)
        if before and not found:
            log.info("pods_forwarded", device=self._device)

    async def _firewalls(self, own: Subnet, bridge: str) -> AsyncIterator[Problem]:
        version: Literal[4, 6] = 4 if own.version == 4 else 6
        network = next((each for each in self._networks if each.version == version), own)
        ways: dict[_Way, ForwardedPacket] = {
            "encap": ForwardedPacket(own, network, bridge, self._device),
            "decap": ForwardedPacket(network, own, self._device, bridge),
        }
        if () not in self._read:
            self._read[()] = await self._firewall.forward_chains()
        for base in self._read[()]:
            family, table, name = (str(base.get(key)) for key in ("family", "table", "name"))
            if family not in {"inet", "ip" if version == 4 else "ip6"}:
                continue
            policy = "drop" if base.get("policy") == "drop" else "accept"
            if name == "FORWARD" and family != "inet" and table in _IPTABLES_TABLES:
                where, read = f"iptables ({table})", self._iptables(version, table, "nft")
            else:
                where, read = f"nftables ({family} {table})", self._nft(family, table)
            async for direction in _lost(ways, name, policy, read):
                yield _of_rules(version, direction, where, name, policy, own)
        if self._firewall.legacy_in_use(version):
            listed = await self._firewall.listing(version, "filter", "FORWARD", "legacy")
            policy = "drop" if "-P FORWARD DROP" in listed else "accept"
            async for direction in _lost(ways, "FORWARD", policy, self._iptables(version, "filter", "legacy")):
                yield _of_rules(version, direction, "iptables (legacy)", "FORWARD", policy, own)

    def _iptables(self, version: Literal[4, 6], table: str, backend: str) -> _Read:
        async def read(chain: str, packet: ForwardedPacket) -> list[Rule]:
            key = (str(version), table, chain, backend)
            if key not in self._read:
                self._read[key] = await self._firewall.listing(version, table, chain, backend)
            lines = self._read[key]
            rules = (iptables_rule(line, packet) for line in lines[:MAX_RULES] if line.startswith("-A "))
            return _known(rules, len(lines))

        return read

    def _nft(self, family: str, table: str) -> _Read:
        async def read(chain: str, packet: ForwardedPacket) -> list[Rule]:
            key = (family, table, chain)
            if key not in self._read:
                self._read[key] = await self._firewall.nft_rules(family, table, chain)
            rules = (nft_rule(expr, packet) for expr in self._read[key][:MAX_RULES])
            return _known(rules, len(self._read[key]))

        return read


_Read = Callable[[str, ForwardedPacket], Awaitable[list[Rule]]]


def _known(rules: Iterable[Rule | None], count: int) -> list[Rule]:
    """Those that decide something; behind MAX_RULES of them anything may happen."""
    found = [rule for rule in rules if rule is not None]
    return [*found, Rule(None, "unknown")] if count > MAX_RULES else found


async def _lost(ways: Mapping[_Way, ForwardedPacket], base: str, policy: str, read: _Read) -> AsyncIterator[_Way]:
    """The directions whose packets a base chain certainly drops."""
    for direction, packet in ways.items():
        chains: dict[str, list[Rule]] = {}
        wanted = [base]
        while wanted and len(chains) < MAX_CHAINS:
            chain = wanted.pop(0)
            if chain not in chains:
                chains[chain] = await read(chain, packet)
                wanted += islice(jumps(chains[chain]), MAX_CHAINS)
        if is_lost(chains, base, policy):
            yield direction


def _of_rules(version: int, direction: _Way, where: str, chain: str, policy: str, own: Subnet) -> Problem:
    which = f"what pods of {own} send" if direction == "encap" else f"what is for pods of {own}"
    cause = f"the chain {chain} of {where}, policy {policy}, drops {which}"
    return Problem(version, direction, cause, f"set firewall.forward: true, or accept from and to {own} there")


def sysctl_problems(root: Path, version: int, device: str, bridge: str) -> Iterator[Problem]:
    """What the sysctls beneath `root`, /proc/sys/net, keep the kernel from forwarding. `bridge` may be ""."""
    conf = root / f"ipv{version}" / "conf"
    if version == 6:
        if _is_off(conf / "all" / "forwarding") and _read(conf / device / "force_forwarding") != "1":  # Linux 6.17
            cause = "net.ipv6.conf.all.forwarding is 0: this node forwards no IPv6 packet of pods"
            yield Problem(6, "both", cause, "sysctl -w net.ipv6.conf.all.forwarding=1")
        return
    if _is_off(root / "ipv4" / "ip_forward"):
        cause = "net.ipv4.ip_forward is 0: this node forwards no IPv4 packet of pods"
        yield Problem(4, "both", cause, "sysctl -w net.ipv4.ip_forward=1")
        return
    directions: dict[_Way, str] = {"encap": bridge, "decap": device}
    for direction, interface in directions.items():
        if interface and _is_off(conf / interface / "forwarding"):
            key = f"net.ipv4.conf.{interface.replace('.', '/')}.forwarding"
            cause = f"{key} is 0: this node forwards nothing that comes in by {interface}"
            yield Problem(4, direction, cause, f"sysctl -w {key}=1")


def _is_off(path: Path) -> bool:
    return _read(path) == "0"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
