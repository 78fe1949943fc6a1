"""Filter expressions for captured frames: a subset of pcap-filter(7), applied to copies, never in the data path.

    expression   term {or term}          term   factor {[and] factor}          factor   {not} primitive | ( expression )
    primitive    [src|dst] host ADDRESS    [src|dst] net PREFIX    [src|dst] port NUMBER    peer ADDRESS
                 ip  ip6  arp  icmp  tcp  udp    encap  decap  forwarded  answered  dropped

Addresses, ports and protocols are those of the inner frame; icmp includes ICMPv6. `peer` is the other VTEP's underlay
address. `&&`, `||` and `!` mean and, or and not; an address alone means host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from vxland.inspect.decode import Packet
from vxland.inspect.records import FrameRecord
from vxland.model.errors import VxlandError
from vxland.model.lease import Address

Wanted = Callable[[FrameRecord, Packet], bool]

MAX_DEPTH = 50
_TOKEN = re.compile(r"\s*(&&|\|\||[()!]|[^\s()!&|]+)")
_ALIASES = {"&&": "and", "||": "or", "!": "not"}
_PROTOCOLS: dict[str, set[str]] = {"tcp": {"tcp"}, "udp": {"udp"}, "icmp": {"icmp", "icmp6"}, "arp": {"arp"}}
_ETHERTYPES = {"ip": 0x0800, "ip6": 0x86DD}
_SIDES = ("src", "dst")


class FilterError(VxlandError):
    """An invalid expression."""


def parse(text: str) -> Wanted:
    """Return the predicate of an expression; the empty one accepts all frames. FilterError names the wrong word."""
    words = _words(text)
    if not words:
        return lambda _record, _packet: True
    parser = _Parser(words)
    wanted = parser.expression(0)
    if parser.word:
        raise FilterError(f"filter: {parser.word!r}: use and, or, or nothing there")
    return wanted


def _words(text: str) -> list[str]:
    words, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise FilterError(f"filter: {text[at:].strip()!r}: use words, addresses, and, or, not, ( and )")
        words.append(_ALIASES.get(found[1], found[1]))
        at = found.end()
    return words


class _Parser:
    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._at = 0

    @property
    def word(self) -> str:
        """The next word; "" at the end."""
        return self._words[self._at] if self._at < len(self._words) else ""

    def expression(self, depth: int) -> Wanted:
        """Parse terms joined by `or`, at this depth of parentheses."""
        if depth > MAX_DEPTH:
            raise FilterError(f"filter: '(': use {MAX_DEPTH} levels at most")
        terms = [self._term(depth)]
        while self.word == "or":
            self._take()
            terms.append(self._term(depth))
        return lambda record, packet: any(term(record, packet) for term in terms)

    def _term(self, depth: int) -> Wanted:
        factors = [self._factor(depth)]
        while self.word not in {"", "or", ")"}:
            if self.word == "and":
                self._take()
            factors.append(self._factor(depth))
        return lambda record, packet: all(factor(record, packet) for factor in factors)

    def _factor(self, depth: int) -> Wanted:
        wanted = True
        while self.word == "not":
            self._take()
            wanted = not wanted
        if self.word == "(":
            self._take()
            inner = self.expression(depth + 1)
            if self._take() != ")":
                raise FilterError("filter: a '(' is not closed: add ')'")
        else:
            inner = self._primitive()
        return inner if wanted else lambda record, packet: not inner(record, packet)

    def _primitive(self) -> Wanted:
        word = self._take()
        if word in _PROTOCOLS:
            protos = _PROTOCOLS[word]
            return lambda _record, packet: packet.proto in protos
        if word in _ETHERTYPES:
            ethertype = _ETHERTYPES[word]
            return lambda _record, packet: packet.ethertype == ethertype
        if word in {"encap", "decap"}:
            return lambda record, _packet: record.direction == word
        if word == "dropped":
            return lambda record, _packet: record.dropped
        if word in {"forwarded", "answered"}:
            return lambda record, _packet: record.verdict == word
        if word == "peer":
            peer = _address(self._take())
            return lambda record, _packet: record.outer == peer
        sides: tuple[str, ...] = _SIDES
        if word in _SIDES:
            sides, word = (word,), self._take()
        return self._ends(word, sides)

    def _ends(self, word: str, sides: tuple[str, ...]) -> Wanted:
        if word == "port":
            port = _port(self._take())
            names = [f"{side[0]}port" for side in sides]
            return lambda _record, packet: any(getattr(packet, name) == port for name in names)
        if word == "net":
            text = self._take()
            try:
                net = ip_network(text, strict=False)
            except ValueError as exc:
                raise FilterError(f"filter: net {text!r}: use a prefix such as 10.244.0.0/16") from exc
            return lambda _record, packet: any(
                address is not None and address in net for address in (getattr(packet, side) for side in sides)
            )
        host = _address(self._take() if word == "host" else word)
        return lambda _record, packet: any(getattr(packet, side) == host for side in sides)

    def _take(self) -> str:
        word = self.word
        self._at += 1
        return word


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as exc:
        if not text:
            raise FilterError("filter: it ends too early: give an address, a protocol, or host, net, port") from exc
        raise FilterError(f"filter: {text!r}: use an address, a protocol, or host, net, port, peer") from exc


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text[:6]) > 0xFFFF:
        raise FilterError(f"filter: port {text!r}: use 0 to 65535")
    return int(text)
