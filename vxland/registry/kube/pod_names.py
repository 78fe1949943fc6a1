"""Names of pods by address, asked of the API server when somebody wants to see them, and cached for a while.

Anybody who can send frames chooses addresses, so everything here has a bound: requests at a time, the time for all of
them, and the entries of the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from vxland.model.lease import Address
from vxland.model.text import printable
from vxland.registry.errors import StoreError

MAX_ENTRIES: Final = 1024
MAX_REQUESTS: Final = 8
"""Requests under way at the same time."""

PATIENCE_S: Final = 1.0
"""The longest time that one call of find() takes."""

FRESH_S: Final = 30.0
"""The time for which an answer counts: a pod's address has another pod later."""

_MAX_NAME: Final = 253  # of a namespace or a pod: RFC 1123 subdomains

ListPods = Callable[[Address], Awaitable[list[object]]]


class PodNames:
    """Names of pods, from `list_pods`, which may raise StoreError. `clock` is for tests."""

    def __init__(self, list_pods: ListPods, clock: Callable[[], float] = time.monotonic) -> None:
        self._list_pods = list_pods
        self._clock = clock
        self._known: OrderedDict[Address, tuple[float, str]] = OrderedDict()
        self._turns = asyncio.Semaphore(MAX_REQUESTS)

    async def find(self, addresses: Collection[Address]) -> Mapping[Address, str]:
        """Return namespace/name by address, without those that are unknown; StoreError, also after PATIENCE_S."""
        now = self._clock()
        missing = [each for each in addresses if each not in self._known or self._known[each][0] <= now]
        tasks = [asyncio.create_task(self._ask(each)) for each in missing]
        if tasks:
            done, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            for error in [task.exception() for task in done]:
                if error is not None:
                    raise error
            if late:
                raise StoreError(f"list pods: no answer in {PATIENCE_S:g} s")
        return {each: self._known[each][1] for each in addresses if self._known.get(each, (0.0, ""))[1]}

    async def _ask(self, address: Address) -> None:
        async with self._turns:
            pods = await self._list_pods(address)
        # A pod of the host's network has its node's address, as others have; and one that has ended keeps its own.
        names = {name for pod in pods if (name := _name_of(pod))}
        self._known[address] = (self._clock() + FRESH_S, names.pop() if len(names) == 1 else "")
        self._known.move_to_end(address)
        while len(self._known) > MAX_ENTRIES:
            self._known.popitem(last=False)


def _name_of(pod: Any) -> str:  # noqa: ANN401  (decoded JSON)
    """Return namespace/name of a running pod; empty for any other object."""
    match pod:
        case {
            "metadata": {"namespace": str(namespace), "name": str(name)},
            "status": {"phase": "Running" | "Pending"},
        }:
            return f"{printable(namespace, _MAX_NAME)}/{printable(name, _MAX_NAME)}"
    return ""
