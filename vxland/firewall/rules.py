"""The masquerade and forward rules that flanneld maintains beside the tunnel, for iptables-restore and for nft. Pure.

Both flavours are made from one list of matches, so they do the same; flannel: iptables.go, nftables.go. The chains,
tables, comments and the order of the rules are flannel's, so that either daemon finds and removes the other's.

In two things flannel's nftables rules differ from its iptables rules. Its fourth nftables rule returns for everything
that comes from outside this node's subnet to the network. So its last one, which masquerades packets from outside the
network, has no effect. Here the fourth rule returns only for packets from outside the network to this node's subnet, as
with iptables. And the mark is compared whole instead of by its bit; that stays, since flannel's clean-up and tests know
that line.

nftables has a limit, for flannel as for vxland: accept ends the chain there, not the hook. So it does not overrule a
drop in another table, such as the policy DROP of iptables' FORWARD chain. The iptables flavour does.

iptables rules are compared as iptables lists them, nft tables as `nft -j` lists them, comments apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from vxland.firewall.nft_listing import NftObject, Shape, shape_of
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
_MARK: Final = 0x4000  # kube-proxy's: its own rule masquerades these packets


@dataclass(frozen=True, slots=True)
class _NftChain:
    """A base chain of nftables: `prio` is the number of the priority's name (nft(8), table 7)."""

    name: str
    comment: str
    kind: str
    hook: str
    priority: str
    prio: int


_NFT_CHAINS: Final = (
    _NftChain("postrtg", "chain to manage traffic masquerading by flannel", "nat", "postrouting", "srcnat", 100),
    _NftChain("forward", "chain to accept flannel traffic", "filter", "forward", "filter", 0),
)


@dataclass(frozen=True, slots=True)
class RulesWant:
    """The rules that are wanted: at most one network and one own subnet of each IP version."""

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
        """Return our rules in the parent, even if flanneld made them; an administrator's own jump lacks our comment."""
        rules = have.get(self.parent_key, ())
        return tuple(rule for rule in rules if rule.endswith(f" -j {self.name}") and self.comment in rule)


_CHAINS: Final = (
    _Chain("nat", "FLANNEL-POSTRTG", "POSTROUTING", "flanneld masq"),
    _Chain("filter", "FLANNEL-FWD", "FORWARD", "flanneld forward"),
)


@dataclass(frozen=True, slots=True)
class _Match:
    """Source and destination to match, if given; a leading `!` negates. Then the verdict, as iptables spells it."""

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

    def nft_listed(self, family: Family) -> Iterator[dict[str, Any]]:
        """Yield the statements of nft() as `nft -j` lists them."""
        for field, value in (("saddr", self.source), ("daddr", self.destination)):
            if value:
                address, _, length = value.removeprefix("!").partition("/")
                whole = length in {"", "32" if family == 4 else "128"}
                yield {
                    "match": {
                        "op": "!=" if value.startswith("!") else "==",
                        "left": {"payload": {"protocol": _NFT_FAMILY[family], "field": field}},
                        "right": address if whole else {"prefix": {"addr": address, "len": int(length)}},
                    }
                }


def _masquerade(want: RulesWant, family: Family) -> list[_Match]:
    network, subnet = _of(want.networks, family), _of(want.subnets, family)
    if not (want.masquerade and network and subnet):
        return []
    return [
        _Match(subnet, network, "RETURN"),
        _Match(network, subnet, "RETURN"),
        _Match(f"!{network}", subnet, "RETURN"),  # from outside, through this node: the pod sees the real source
        _Match(network, f"!{_MULTICAST[family]}", "MASQUERADE"),
        _Match(f"!{network}", network, "MASQUERADE"),
    ]


def _forward(want: RulesWant, family: Family) -> list[_Match]:
    network = _of(want.networks, family)
    return [_Match(network, "", "ACCEPT"), _Match("", network, "ACCEPT")] if want.forward and network else []


def _of(subnets: tuple[Subnet, ...], family: Family) -> str:
    return next((str(subnet) for subnet in subnets if subnet.version == family), "")


def iptables_rules(want: RulesWant, family: Family) -> Chains:
    """Return the wanted chains with exactly their rules, and the one rule in each built-in chain that jumps to one."""
    found: dict[ChainKey, tuple[str, ...]] = {}
    for chain, matches in zip(_CHAINS, (_masquerade(want, family), _forward(want, family)), strict=True):
        if matches:
            mark = [f"-m mark --mark {_MARK:#x}/{_MARK:#x}"] if chain.table == "nat" else []
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
    """Return the part of `have` that is flannel's: whole chains, and the jumps to them."""
    found: dict[ChainKey, tuple[str, ...]] = {}
    for chain in _CHAINS:
        if jumps := chain.jumps(have):
            found[chain.parent_key] = jumps
        if chain.key in have:
            found[chain.key] = have[chain.key]
    return found


def restore_text(want: RulesWant, family: Family, have: Chains) -> str:
    """Return the input of `iptables-restore --noflush` that turns `have` into `want`; "" if they are equal.

    Each table is one transaction. A chain is flushed and filled again whole. An existing jump stays where it is, a new
    one goes to the end. A chain that is not wanted is deleted with every rule that jumps to it.
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
    """Return family and name of flannel's table, as nft names them."""
    return _NFT_FAMILY[family], f"flannel-ipv{family}"


def nft_text(want: RulesWant, family: Family) -> str:
    """Return the table as `nft list table` prints it; "" if no rules are wanted at all.

    A family without a network has an empty table: flannel's clean-up stops at the first table that is missing.
    """
    if not (want.masquerade or want.forward):
        return ""
    kind, name = nft_table(family)
    lines = [f"table {kind} {name} {{", f'\tcomment "rules for {name}"']
    for chain, matches in _nft_chains(want, family):
        blank = [""] if len(lines) > 2 else []
        lines += [*blank, f"\tchain {chain.name} {{", f'\t\tcomment "{chain.comment}"']
        lines += [f"\t\ttype {chain.kind} hook {chain.hook} priority {chain.priority}; policy accept;"]
        lines += [f"\t\tmeta mark {_MARK:#010x} return"] if chain.kind == "nat" else []
        for match in matches:
            random = " fully-random" if match.verdict == "MASQUERADE" and want.fully_random else ""
            lines.append("\t\t" + " ".join((*match.nft(family), match.verdict.lower() + random)))
        lines.append("\t}")
    return "".join(f"{line}\n" for line in [*lines, "}"])


def nft_objects(want: RulesWant, family: Family) -> list[NftObject]:
    """Return the table of nft_text() as `nft -j` lists it, without handles and comments; [] if no rules are wanted."""
    if not (want.masquerade or want.forward):
        return []
    kind, name = nft_table(family)
    found: list[NftObject] = [("table", {"family": kind, "name": name})]
    here = {"family": kind, "table": name}
    for chain, matches in _nft_chains(want, family):
        base = {"type": chain.kind, "hook": chain.hook, "prio": chain.prio, "policy": "accept"}
        found.append(("chain", {**here, "name": chain.name, **base}))
        rules: list[list[dict[str, Any]]] = []
        if chain.kind == "nat":
            mark = {"op": "==", "left": {"meta": {"key": "mark"}}, "right": _MARK}
            rules.append([{"match": mark}, {"return": None}])
        random = {"flags": "fully-random"} if want.fully_random else None
        for match in matches:
            verdict = {match.verdict.lower(): random if match.verdict == "MASQUERADE" else None}
            rules.append([*match.nft_listed(family), verdict])
        found += [("rule", {**here, "chain": chain.name, "expr": rule}) for rule in rules]
    return found


def nft_shape(want: RulesWant, family: Family) -> Shape:
    """Return the comparable form of the wanted table; () if no rules are wanted."""
    return shape_of(nft_objects(want, family))


def _nft_chains(want: RulesWant, family: Family) -> list[tuple[_NftChain, list[_Match]]]:
    pairs = zip(_NFT_CHAINS, (_masquerade(want, family), _forward(want, family)), strict=True)
    return [(chain, matches) for chain, matches in pairs if matches]


def nft_script(family: Family, text: str) -> str:
    """Return input of `nft -f -` that replaces the table by `text` in one transaction; "" removes the table."""
    table = " ".join(nft_table(family))
    return f"add table {table}\ndelete table {table}\n{text}"  # added first: deleting a missing table is an error
