"""The masquerade and forward rules that flanneld keeps beside the tunnel, as text for iptables-restore and for nft.

Both flavours are written from one list of matches, so they do the same; flannel: iptables.go, nftables.go. The chains,
tables, comments and the rules' order are flannel's, so that either daemon finds and removes what the other has left.

In two things flannel's nftables rules differ from its iptables rules. The fourth one there returns for all that comes
from outside this node's subnet to the network, which makes the last one, that masquerades what comes from outside the
network, dead. Here it returns for packets from outside the network to this node's subnet only, as with iptables. The
mark is compared whole instead of by its bit; that stays as it is, since flannel's clean-up and tests know that line.

What nftables cannot do, for flannel as for vxland: accept there ends the chain, not the hook, so it does not overrule
a drop in another table, such as the policy DROP of iptables' FORWARD chain. The iptables flavour does.

iptables rules are compared as iptables lists them and nft tables likewise, comments apart: both texts here are in the
very form that the tools print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from vxland.model.lease import Subnet

Flavour: TypeAlias = Literal["iptables", "nftables"]
Family: TypeAlias = Literal[4, 6]
ChainKey: TypeAlias = tuple[str, str]
Chains: TypeAlias = Mapping[ChainKey, tuple[str, ...]]
"""Chains that exist, by table and name: their rules in order, as `iptables -S` and iptables-save print them."""

FLAVOURS: Final[tuple[Flavour, Flavour]] = ("iptables", "nftables")
FAMILIES: Final[tuple[Family, Family]] = (4, 6)

_MULTICAST: Final = {4: "224.0.0.0/4", 6: "ff00::/8"}
_NFT_FAMILY: Final = {4: "ip", 6: "ip6"}
_NFT_CHAINS: Final = {
    "postrtg": ("chain to manage traffic masquerading by flannel", "type nat hook postrouting priority srcnat"),
    "forward": ("chain to accept flannel traffic", "type filter hook forward priority filter"),
}


@dataclass(frozen=True, slots=True)
class RulesWant:
    """Which rules are wanted: at most one network and one own subnet of each IP version."""

    networks: tuple[Subnet, ...]
    subnets: tuple[Subnet, ...]
    masquerade: bool
    forward: bool
    fully_random: bool = True


NOTHING: Final = RulesWant((), (), masquerade=False, forward=False)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A chain of ours, and the built-in one whose rule jumps to it."""

    table: str
    name: str
    parent: str
    comment: str

    @property
    def key(self) -> ChainKey:
        return self.table, self.name

    @property
    def parent_key(self) -> ChainKey:
        return self.table, self.parent

    @property
    def jump(self) -> str:
        return f'-A {self.parent} -m comment --comment "{self.comment}" -j {self.name}'

    def jumps(self, have: Chains) -> tuple[str, ...]:
        """Our rules in the parent, however they came there; an administrator's own jump has not our comment."""
        rules = have.get(self.parent_key, ())
        return tuple(rule for rule in rules if rule.endswith(f" -j {self.name}") and self.comment in rule)


_CHAINS: Final = (
    _Chain("nat", "FLANNEL-POSTRTG", "POSTROUTING", "flanneld masq"),
    _Chain("filter", "FLANNEL-FWD", "FORWARD", "flanneld forward"),
)


@dataclass(frozen=True, slots=True)
class _Match:
    """Source and destination to match, where given; a `!` before one negates it. Then what is done."""

    source: str
    destination: str
    verdict: str

    def iptables(self) -> Iterator[str]:
        for option, value in (("-s", self.source), ("-d", self.destination)):
            if value:
                yield f"! {option} {value[1:]}" if value.startswith("!") else f"{option} {value}"

    def nft(self, family: Family) -> Iterator[str]:
        for field, value in (("saddr", self.source), ("daddr", self.destination)):
            if value:
                operand = f"!= {value[1:]}" if value.startswith("!") else value
                yield f"{_NFT_FAMILY[family]} {field} {operand}"


def _masquerade(want: RulesWant, family: Family) -> list[_Match]:
    network, subnet = _of(want.networks, family), _of(want.subnets, family)
    if not (want.masquerade and network and subnet):
        return []
    return [
        _Match(subnet, network, "RETURN"),
        _Match(network, subnet, "RETURN"),
        _Match(f"!{network}", subnet, "RETURN"),  # from outside, by way of this node: the pod sees who it is
        _Match(network, f"!{_MULTICAST[family]}", "MASQUERADE"),
        _Match(f"!{network}", network, "MASQUERADE"),
    ]


def _forward(want: RulesWant, family: Family) -> list[_Match]:
    network = _of(want.networks, family)
    return [_Match(network, "", "ACCEPT"), _Match("", network, "ACCEPT")] if want.forward and network else []


def _of(subnets: tuple[Subnet, ...], family: Family) -> str:
    return next((str(subnet) for subnet in subnets if subnet.version == family), "")


def iptables_rules(want: RulesWant, family: Family) -> Chains:
    """The chains wanted with exactly their rules, and the one rule wanted in each built-in chain that leads to one."""
    found: dict[ChainKey, tuple[str, ...]] = {}
    for chain, matches in zip(_CHAINS, (_masquerade(want, family), _forward(want, family)), strict=True):
        if matches:
            mark = ["-m mark --mark 0x4000/0x4000"] if chain.table == "nat" else []
            tails = [(" ".join(match.iptables()), match.verdict) for match in matches]
            found[chain.parent_key] = (chain.jump,)
            found[chain.key] = tuple(
                f'-A {chain.name} {match} -m comment --comment "{chain.comment}" -j {_target(verdict, want)}'
                for match, verdict in [*((match, "RETURN") for match in mark), *tails]
            )
    return found


def _target(verdict: str, want: RulesWant) -> str:
    return f"{verdict} --random-fully" if verdict == "MASQUERADE" and want.fully_random else verdict


def ours(have: Chains) -> Chains:
    """What of `have` is flannel's: whole chains, and the jumps to them."""
    found: dict[ChainKey, tuple[str, ...]] = {}
    for chain in _CHAINS:
        if jumps := chain.jumps(have):
            found[chain.parent_key] = jumps
        if chain.key in have:
            found[chain.key] = have[chain.key]
    return found


def restore_text(want: RulesWant, family: Family, have: Chains) -> str:
    """Input of `iptables-restore --noflush` that turns `have` into `want`, a transaction per table; "" if it is so.

    A chain is flushed and filled again whole; a jump that is there keeps its place, a new one goes to the end. A chain
    that is not wanted goes with every rule that leads to it.
    """
    wanted, lines = iptables_rules(want, family), []
    for chain in _CHAINS:
        rules, jumps = wanted.get(chain.key), chain.jumps(have)
        if rules is None:
            change = list(_removed(chain, have))
        elif have.get(chain.key) == rules and jumps == (chain.jump,):
            change = []
        else:
            change = [f":{chain.name} - [0:0]"]
            if jumps != (chain.jump,):
                change += [*map(_deleted, jumps), chain.jump]
            change += rules
        if change:
            lines += [f"*{chain.table}", *change, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def _removed(chain: _Chain, have: Chains) -> Iterator[str]:
    if chain.key not in have:
        return
    yield f":{chain.name} - [0:0]"  # empties it
    for (table, name), rules in have.items():
        if table == chain.table and name != chain.name:
            yield from (_deleted(rule) for rule in rules if rule.endswith((f" -j {chain.name}", f" -g {chain.name}")))
    yield f"-X {chain.name}"


def _deleted(rule: str) -> str:
    return f"-D{rule.removeprefix('-A')}"


def nft_table(family: Family) -> tuple[str, str]:
    """Family and name of flannel's table, as nft calls them."""
    return _NFT_FAMILY[family], f"flannel-ipv{family}"


def nft_text(want: RulesWant, family: Family) -> str:
    """The table as `nft list table` prints it; "" where no rules are wanted at all.

    A family without a network has an empty one: flannel's clean-up stops at the first table that is missing.
    """
    if not (want.masquerade or want.forward):
        return ""
    kind, name = nft_table(family)
    lines = [f"table {kind} {name} {{", f'\tcomment "rules for {name}"']
    random = " fully-random" if want.fully_random else ""
    for chain, matches in (("postrtg", _masquerade(want, family)), ("forward", _forward(want, family))):
        if matches:
            comment, hook = _NFT_CHAINS[chain]
            blank = [""] if len(lines) > 2 else []
            lines += [*blank, f"\tchain {chain} {{", f'\t\tcomment "{comment}"', f"\t\t{hook}; policy accept;"]
            lines += ["\t\tmeta mark 0x00004000 return"] if chain == "postrtg" else []
            for match in matches:
                verdict = match.verdict.lower() + (random if match.verdict == "MASQUERADE" else "")
                lines.append("\t\t" + " ".join((*match.nft(family), verdict)))
            lines.append("\t}")
    return "".join(f"{line}\n" for line in [*lines, "}"])


def nft_rules(text: str) -> tuple[str, ...]:
    """The lines of a table's text but for what nft versions print differently: blanks and comments."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("comment "))


def nft_script(family: Family, text: str) -> str:
    """Input of `nft -f -` that puts the table `text` in place of the one there, or removes it, in one transaction."""
    table = " ".join(nft_table(family))
    return f"add table {table}\ndelete table {table}\n{text}"  # added first: to delete what is missing is an error
