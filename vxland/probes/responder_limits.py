"""Limits of the responder: datagrams and connections of each sender, and of all together. Pure: `now` is an argument.

A sender is known if its address is the first one of a leased subnet, which is a node's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vxland.model.lease import Address, Subnet

DATAGRAMS_S: Final = 100.0
"""Datagrams a second that one sender gets answered; one test needs 5 to 18."""

BURST: Final = 50.0
CONNECTIONS: Final = 32
"""Connections at a time."""

CONNECTIONS_EACH: Final = 2
"""Connections at a time of one sender."""


@dataclass(slots=True)
class _Tokens:
    """Datagrams that a sender still gets answered, as of a time."""

    left: float
    at: float


class ResponderLimits:
    """State of the senders of one device."""

    def __init__(self) -> None:
        self._known = Counter[Address]()  # subnets by the address of their node
        self._tokens: dict[Address, _Tokens] = {}
        self._open: Counter[Address] = Counter()

    def follow(self, *, removed: Iterable[Subnet] = (), added: Iterable[Subnet] = ()) -> None:
        """Know the nodes of the added subnets too, and forget those that hold none but removed ones."""
        for subnet in added:
            self._known[subnet.network_address] += 1
        for subnet in removed:
            sender = subnet.network_address
            self._known[sender] -= 1
            if not self._known[sender]:
                del self._known[sender]
                self._tokens.pop(sender, None)

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return self._open.total() >= CONNECTIONS

    def may_answer(self, sender: Address, now: float) -> bool:
        """Return whether a datagram may be answered; if so, count it."""
        if sender not in self._known:
            return False
        tokens = self._tokens.setdefault(sender, _Tokens(BURST, now))
        tokens.left = min(BURST, tokens.left + (now - tokens.at) * DATAGRAMS_S)
        tokens.at = now
        if tokens.left < 1:
            return False
        tokens.left -= 1
        return True

    def may_connect(self, sender: Address) -> bool:
        """Return whether a connection may stay; if so, count it until closed()."""
        if sender not in self._known or self.full or self._open[sender] >= CONNECTIONS_EACH:
            return False
        self._open[sender] += 1
        return True

    def closed(self, sender: Address) -> None:
        """Forget a connection."""
        self._open[sender] -= 1
        if not self._open[sender]:
            del self._open[sender]
