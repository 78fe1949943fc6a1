"""The effect of a node's own FORWARD rules on pods' packets, computed from the rules alone. Pure.

A chain is walked with the first packet of a new connection, of which only addresses and interfaces are known, and at
most the protocol. A match on anything else may hold or not, so a walk ends in one outcome or several. Only if all of
them are a drop is the packet certainly lost, and only that is reported. A rule that is not understood may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, NamedTuple

from vxland.model.lease import Subnet

_COMMENT = re.compile(r'--comment (?:"(?:[^"\\]|\\.)*"|\S+)')

MAX_DEPTH = 16  # of jumps, as nf_tables has it

_ANY = frozenset({"accept", "drop"})
_TARGETS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return", "NFQUEUE": "unknown"}
_ENDS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "queue": "unknown"}
_NUMBERS = {"tcp": "6"}
_OTHER_PROTOCOLS = frozenset({"icmp", "icmpv6", "igmp", "udp", "udplite", "sctp", "dccp", "esp", "ah", "comp"})
_MAYBE = frozenset({"limit", "quota", "xt", "fib", "vmap", "connlimit", "socket", "lookup"})


@dataclass(frozen=True, slots=True)
class ForwardedPacket:
    """Packets from pods of one subnet to those of another, through two interfaces; a name is "" if it is not known.

    They are addressed to the pods themselves, so nothing has translated them. `proto` is tcp, or "" for any protocol.
    """

    src: Subnet
    dst: Subnet
    iif: str
    oif: str
    proto: str = ""


class Rule(NamedTuple):
    """Whether a rule matches (None: perhaps), and its verdict: accept, drop, return, jump, goto or unknown."""

    matches: bool | None
    verdict: str
    target: str = ""


Chains = Mapping[str, Sequence[Rule]]


def is_lost(chains: Chains, base: str, policy: str) -> bool:
    """Return whether a base chain certainly drops the packet that its rules were read for."""
    found = _outcomes(chains, base, 0)
    return {policy if outcome == "return" else outcome for outcome in found} == {"drop"}


def jumps(rules: Sequence[Rule]) -> list[str]:
    """Return the chains that rules lead to."""
    return [rule.target for rule in rules if rule.target and rule.matches is not False]


def _outcomes(chains: Chains, name: str, depth: int) -> set[str]:
    if name not in chains or depth > MAX_DEPTH:
        return {*_ANY, "return"}
    found: set[str] = set()
    for matches, verdict, target in chains[name]:
        if matches is False:
            continue
        if verdict == "unknown":
            found |= _ANY
            continue
        ends = _outcomes(chains, target, depth + 1) if target else {verdict}
        goes_on = verdict == "jump" and "return" in ends
        found |= ends - {"return"} if verdict == "jump" else ends
        if matches and not goes_on:
            return found
    return found | {"return"}


def iptables_rule(line: str, packet: ForwardedPacket) -> Rule | None:
    """Return the rule of a line `-A CHAIN ...` of iptables -S; None if it decides nothing."""
    words = _COMMENT.sub("", line).split()[2:]
    matches: bool | None = True
    negated = False
    for at, word in enumerate(words):
        value = words[at + 1] if at + 1 < len(words) else ""
        if word in {"-j", "-g"}:
            if value in _TARGETS:
                return Rule(matches, _TARGETS[value])
            return Rule(matches, "jump" if word == "-j" else "goto", value)
        if word == "!":
            negated = True
        elif word.startswith("-") and word not in {"-m", "--comment"}:
            held = _iptables_match(word, value, packet)
            matches = _both(matches, held if held is None else held != negated)
            negated = False
    return None


def _iptables_match(option: str, value: str, packet: ForwardedPacket) -> bool | None:
    match option:
        case "-s":
            return _within(packet.src, value)
        case "-d":
            return _within(packet.dst, value)
        case "-i":
            return _named(packet.iif, value, "+")
        case "-o":
            return _named(packet.oif, value, "+")
        case "-p" if packet.proto:
            return value in {packet.proto, _NUMBERS[packet.proto], "all"}
        case "--ctstate" | "--state":
            return "NEW" in value.split(",")
        case "--ctstatus":
            return "NONE" in value.split(",")
        case "--mark":
            with suppress(ValueError):
                return int(value.partition("/")[0], 0) == 0
    return None


def nft_rule(expr: Sequence[Mapping[str, Any]], packet: ForwardedPacket) -> Rule | None:
    """Return the rule of statements as nft -j lists them; None if it decides nothing."""
    matches: bool | None = True
    for statement in expr:
        for name, body in statement.items() if isinstance(statement, dict) else ():
            if name == "match":
                matches = _both(matches, _nft_match(body, packet) if isinstance(body, dict) else None)
            elif name in _ENDS:
                return Rule(matches, _ENDS[name])
            elif name in {"jump", "goto"}:
                return Rule(matches, name, str(_body(statement, name).get("target", "")))
            elif name == "vmap":
                return Rule(None, "unknown")
            elif name in _MAYBE:
                matches = _both(matches, None)
    return None


def _nft_match(body: Mapping[str, Any], packet: ForwardedPacket) -> bool | None:
    left, right, op = body.get("left"), body.get("right"), body.get("op")
    if not isinstance(left, dict) or op not in {"==", "!=", "in"}:
        return None
    if packet.proto and _body(left, "payload").get("protocol") in _OTHER_PROTOCOLS:
        return False  # with != too
    held = _nft_field(left, right, packet)
    return held if held is None else held == (op != "!=")


def _nft_field(left: Mapping[str, Any], right: object, packet: ForwardedPacket) -> bool | None:
    values = _values(right)
    key = _body(left, "meta").get("key") or _body(left, "ct").get("key")
    if key in {"iifname", "oifname"}:
        name = packet.iif if key == "iifname" else packet.oif
        return _any([_named(name, value, "*") if _is_word(value) else None for value in values])
    if key == "state" and "ct" in left:
        return _one_of("new", values)
    if key == "nfproto":
        return _one_of(f"ipv{packet.src.version}", values)
    if key == "status" and "ct" in left:
        return _one_of("", values)  # nobody has translated it, and nothing has answered
    if key == "l4proto":
        return _one_of(packet.proto, values) if packet.proto else None
    if key == "mark":
        return 0 in values if all(isinstance(value, int) for value in values) else None
    payload = _body(left, "payload")
    if packet.proto and (payload.get("protocol"), payload.get("field")) in {("ip", "protocol"), ("ip6", "nexthdr")}:
        return _one_of(packet.proto, values)
    if payload.get("protocol") in {"ip", "ip6"} and payload.get("field") in {"saddr", "daddr"}:
        if (payload["protocol"] == "ip") != (packet.src.version == 4):
            return False
        subnet = packet.src if payload["field"] == "saddr" else packet.dst
        return _any([_within(subnet, _prefix(value)) for value in values])
    return None


def _body(expression: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = expression.get(kind)
    return found if isinstance(found, dict) else {}


def _values(right: object) -> list[Any]:
    """The operands of a match: of a set, of flags (`{"|": [...]}`, as some versions list them), or a single one."""
    if isinstance(right, dict):
        right = right.get("set", right.get("|", right))
    return right if isinstance(right, list) else [right]


def _is_word(value: object) -> bool:
    """Whether a value says what it is; `@name` is a set elsewhere."""
    return isinstance(value, str) and not value.startswith("@")


def _one_of(word: str, values: Sequence[object]) -> bool | None:
    return word in values if all(map(_is_word, values)) else None


def _prefix(value: object) -> str:
    """An address or prefix of nft's JSON as text; "" for anything else."""
    if isinstance(value, dict) and isinstance(prefix := value.get("prefix"), dict):
        return f"{prefix.get('addr')}/{prefix.get('len')}"
    return value if isinstance(value, str) else ""


def _within(subnet: Subnet, text: str) -> bool | None:
    """Whether all of a subnet lies in the one that `text` names; None: a part of it."""
    try:
        written = ip_network(text, strict=False)
    except ValueError:
        return None
    if written.version != subnet.version:
        return False
    if written.prefixlen <= subnet.prefixlen and subnet.network_address in written:
        return True
    return None if subnet.overlaps(written) else False


def _named(name: str, pattern: str, wildcard: str) -> bool | None:
    if not name:
        return None
    return name.startswith(pattern[:-1]) if pattern.endswith(wildcard) else name == pattern


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _any(held: Sequence[bool | None]) -> bool | None:
    if any(each for each in held):
        return True
    return None if any(each is None for each in held) else False
