"""Names of nodes and pods beside their addresses, where the daemon knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vxland.ctl.client import CtlError, DaemonClient
from vxland.model.text import printable

_AT_A_TIME = 64  # addresses that the daemon takes in one request
_MAX_ADDRESSES = 256  # of one output: a flood may show any number
_MAX_LEN = 600  # of a name, those of a namespace and a pod, and of an error


class NameLookup:
    """Names by address, each asked for once. `error`: the reason why names of pods are missing, or empty."""

    def __init__(self, daemon: DaemonClient) -> None:
        self._daemon = daemon
        self._left = _MAX_ADDRESSES
        self._asked: set[str] = set()
        self._names: dict[str, str] = {}
        self.error = ""

    def find(self, addresses: Iterable[object]) -> Mapping[str, str]:
        """Return the names of those addresses that have one; None among them is left out. Does not fail."""
        wanted = list(dict.fromkeys(str(each) for each in addresses if each is not None))
        new = [each for each in wanted if each not in self._asked]
        while new and self._left > 0:
            some, new = new[: min(_AT_A_TIME, self._left)], new[_AT_A_TIME:]
            self._asked.update(some)
            self._left -= len(some)
            try:
                answer = self._daemon.ask("names", addresses=some)
            except CtlError:  # an older daemon, or none any more
                self._left = 0
                break
            self._names |= {address: printable(name, _MAX_LEN) for address, name in answer["names"].items()}
            if answer["error"]:  # a further request could wait as long
                self.error, self._left = printable(answer["error"], _MAX_LEN), 0
        return {each: self._names[each] for each in wanted if each in self._names}
