"""Check of this node's forwarding between its pods and the overlay: sysctls, and the rules of its firewalls.

Both act before and behind vxland: a node whose `net.ipv4.ip_forward` is 0, or whose FORWARD chain drops, is ready and
reachable, and loses every packet of its pods. Another node's settings cannot be seen from here; it reports them itself.

The check runs every PERIOD_S, and on request. Rules that cannot be read are reported as unknown, not as a problem.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import structlog

from vxland.firewall.forward_rules import ForwardedPacket, Rule, iptables_rule, is_lost, jumps, nft_rule
from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Subnet

PERIOD_S = 60.0
PATIENCE_S = 3.0
"""How long a request waits for nft and iptables, which may wait for another program's lock."""

MAX_CHAINS = 32
"""Chains of one family and firewall that are read; rules beyond are unknown."""

MAX_RULES = 2000
"""Rules of one chain that are evaluated: 10 ms."""

_SYSCTL = Path("/proc/sys/net")
_IPTABLES_TABLES = frozenset({"filter", "mangle", "security"})

_Direction: TypeAlias = Literal["encap", "decap"]

log = structlog.get_logger()


class RuleReader(Protocol):
    """Access to the rules that exist; firewall/programs.py has it. The methods raise VxlandError."""

    async def forward_chains(self) -> Sequence[Mapping[str, Any]]:
        """Return the base chains of nf_tables that forwarded packets pass, as nft -j lists them."""
        ...

    async def nft_rules(self, family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
        """Return the statements of each rule of a chain."""
        ...

    def legacy_in_use(self, family: Literal[4, 6]) -> bool:
        """Return whether iptables' legacy filter table exists."""
        ...

    async def listing(self, family: Literal[4, 6], table: str, chain: str, backend: str) -> Sequence[str]:
        """Return the lines that `iptables -S` prints for a chain; none if there is no such chain."""
        ...


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why this node's kernel loses packets of pods: IP version, direction, cause and remedy."""

    version: int
    direction: Literal["encap", "decap", "both"]
    cause: str
    remedy: str
    proto: str = ""
    """tcp if it is certain of TCP alone."""


_Read = Callable[[str, ForwardedPacket], Awaitable[list[Rule]]]


@dataclass(frozen=True, slots=True)
class _Chain:
    """A base chain: its name, the tool and table that it is of, its policy, and what reads it and those it jumps to."""

    name: str
    where: str
    policy: str
    read: _Read
    overrules: bool = False
    """True if it drops also what the rules of firewall.forward accept, as each base chain of nftables does."""


class ForwardCheck:
    """The check for the pods behind `device`. `to_pods(address)` names the interface to a pod of this node."""

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
        """The reason why the firewall's rules could not be read; empty if they were."""
        self.own: tuple[Subnet, ...] = ()
        """This node's subnets; nothing is checked before there are any."""
        self._device = device
        self._networks = tuple(networks)
        self._firewall = firewall
        self._to_pods = to_pods
        self._sysctl = sysctl
        self._checked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._read: dict[tuple[str, ...], Sequence[Any]] = {}  # chains of this check: both directions need them

    async def run(self, ready: asyncio.Event) -> None:
        """Check every PERIOD_S until cancelled, once the device is set up."""
        await ready.wait()
        while True:
            await self.check()
            await asyncio.sleep(PERIOD_S)

    async def refresh(self, max_age_s: float) -> None:
        """Check again if the last check is older than `max_age_s`; after PATIENCE_S the last results must do."""
        if time.monotonic() - self._checked_at > max_age_s:
            checking = asyncio.ensure_future(self.check())
            await asyncio.wait({checking}, timeout=PATIENCE_S)

    async def check(self) -> None:
        """Read sysctls and rules now, and log each new problem."""
        async with self._lock:
            if not self.own:
                return
            found, self.unknown = await self.find()
            self._checked_at = time.monotonic()
            before, self.problems = self.problems, found
        for problem in found:
            if problem not in before:
                log.warning("pods_not_forwarded", device=self._device, cause=problem.cause, remedy=problem.remedy)
        if before and not found:
            log.info("pods_forwarded", device=self._device)

    async def find(self, *, accepted: bool = False) -> tuple[tuple[Problem, ...], str]:
        """Return the problems as they are now, and why rules could not be read; nothing is logged.

        `accepted`: vxland is about to accept the overlay in iptables' FORWARD chain, which is left out.
        """
        self._read.clear()
        found: list[Problem] = []
        unknown: list[str] = []
        for own in self.own:
            bridge = await self._to_pods(own[min(2, own.num_addresses - 1)])
            found += sysctl_problems(self._sysctl, own.version, self._device, bridge)
            try:
                found += [problem async for problem in self._firewalls(own, bridge, accepted)]
            except VxlandError as exc:
                unknown.append(str(exc))
            except (AttributeError, LookupError, TypeError, ValueError) as exc:  # of another version of nft
                unknown.append(f"nft or iptables lists rules in an unknown form: {type(exc).__name__}: {exc}")
        return tuple(found), "; ".join(dict.fromkeys(unknown))

    async def _firewalls(self, own: Subnet, bridge: str, accepted: bool) -> AsyncIterator[Problem]:
        version: Literal[4, 6] = 4 if own.version == 4 else 6
        network = next((each for each in self._networks if each.version == version), own)
        packets: dict[_Direction, ForwardedPacket] = {
            "encap": ForwardedPacket(own, network, bridge, self._device),
            "decap": ForwardedPacket(network, own, self._device, bridge),
        }
        if () not in self._read:
            self._read[()] = await self._firewall.forward_chains()
        for base in self._read[()]:
            family, table, name = (str(base.get(key)) for key in ("family", "table", "name"))
            if family not in {"inet", "ip" if version == 4 else "ip6"}:
                continue
            if accepted and (family != "inet", table, name) == (True, "filter", "FORWARD"):
                continue
            policy = "drop" if base.get("policy") == "drop" else "accept"
            if name == "FORWARD" and family != "inet" and table in _IPTABLES_TABLES:
                chain = _Chain(name, f"iptables ({table})", policy, self._iptables(version, table, "nft"))
            else:
                chain = _Chain(name, f"nftables ({family} {table})", policy, self._nft(family, table), overrules=True)
            async for direction, proto in _lost(packets, chain):
                yield _of_rules(chain, direction, proto, own)
        if not accepted and self._firewall.legacy_in_use(version):
            listed = await self._firewall.listing(version, "filter", "FORWARD", "legacy")
            policy = "drop" if "-P FORWARD DROP" in listed else "accept"
            chain = _Chain("FORWARD", "iptables (legacy)", policy, self._iptables(version, "filter", "legacy"))
            async for direction, proto in _lost(packets, chain):
                yield _of_rules(chain, direction, proto, own)

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


def _known(rules: Iterable[Rule | None], count: int) -> list[Rule]:
    """The rules that decide something; behind MAX_RULES of them anything may happen."""
    found = [rule for rule in rules if rule is not None]
    return [*found, Rule(None, "unknown")] if count > MAX_RULES else found


async def _lost(packets: Mapping[_Direction, ForwardedPacket], chain: _Chain) -> AsyncIterator[tuple[_Direction, str]]:
    """The directions in which a base chain certainly drops packets, with tcp if others than TCP may pass."""
    for direction, packet in packets.items():
        if await _is_lost(packet, chain):
            yield direction, ""
        elif await _is_lost(replace(packet, proto="tcp"), chain):
            yield direction, "tcp"


async def _is_lost(packet: ForwardedPacket, base: _Chain) -> bool:
    chains: dict[str, list[Rule]] = {}
    wanted = [base.name]
    while wanted and len(chains) < MAX_CHAINS:
        chain = wanted.pop(0)
        if chain not in chains:
            chains[chain] = await base.read(chain, packet)
            wanted += islice(jumps(chains[chain]), MAX_CHAINS)
    return is_lost(chains, base.name, base.policy)


def _of_rules(chain: _Chain, direction: _Direction, proto: str, own: Subnet) -> Problem:
    what, whose = "TCP packets" if proto else "packets", "from" if direction == "encap" else "to"
    cause = f"the chain {chain.name} of {chain.where}, policy {chain.policy}, drops {what} {whose} pods of {own}"
    remedy = f"accept from and to {own} there"
    remedy = (
        f"{remedy}; firewall.forward cannot overrule it"
        if chain.overrules
        else f"set firewall.forward: true, or {remedy}"
    )
    return Problem(own.version, direction, cause, remedy, proto)


def sysctl_problems(root: Path, version: int, device: str, bridge: str) -> Iterator[Problem]:
    """Yield a problem for each sysctl below `root` (/proc/sys/net) that stops forwarding. `bridge` may be "".

    A device that does not exist yet will have the values of `default`.
    """
    conf = root / f"ipv{version}" / "conf"
    if version == 6:
        yield from _ipv6_problems(conf, device, bridge)
        return
    if _is_off(root / "ipv4" / "ip_forward"):
        cause = "net.ipv4.ip_forward is 0: this node forwards no IPv4 packet of pods"
        yield Problem(4, "both", cause, "sysctl -w net.ipv4.ip_forward=1")
        return
    directions: dict[_Direction, str] = {"encap": bridge, "decap": device}
    for direction, interface in directions.items():
        scope = _scope(conf, interface)
        if interface and _is_off(conf / scope / "forwarding"):
            key = _key(4, scope, "forwarding")
            cause = f"{key} is 0: this node forwards nothing that arrives on {interface}"
            yield Problem(4, direction, cause, f"sysctl -w {key}=1")


def _ipv6_problems(conf: Path, device: str, bridge: str) -> Iterator[Problem]:
    if _is_off(conf / "all" / "forwarding") and _read(conf / device / "force_forwarding") != "1":  # Linux 6.17
        cause = "net.ipv6.conf.all.forwarding is 0: this node forwards no IPv6 packet of pods"
        yield Problem(6, "both", cause, "sysctl -w net.ipv6.conf.all.forwarding=1")
    for interface in filter(None, (device, bridge)):
        scope = _scope(conf, interface)
        if _read(conf / scope / "disable_ipv6") == "1":
            key = _key(6, scope, "disable_ipv6")
            cause = f"{key} is 1: {interface} has no IPv6, and carries no IPv6 packet of pods"
            yield Problem(6, "both", cause, f"sysctl -w {key}=0")


def _scope(conf: Path, interface: str) -> str:
    return interface if (conf / interface).is_dir() else "default"


def _key(version: int, scope: str, name: str) -> str:
    return f"net.ipv{version}.conf.{scope.replace('.', '/')}.{name}"


def _is_off(path: Path) -> bool:
    return _read(path) == "0"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
