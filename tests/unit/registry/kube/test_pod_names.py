"""Names of pods by address: cached, bounded, and only where one running pod has the address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from vxland.model.lease import Address
from vxland.registry.errors import StoreError
from vxland.registry.kube import pod_names
from vxland.registry.kube.pod_names import FRESH_S, MAX_ENTRIES, MAX_REQUESTS, PodNames

A, B = ip_address("10.244.0.3"), ip_address("fd00::3")


def pod(name: str, phase: str = "Running") -> dict[str, Any]:
    """Return a Pod object."""
    return {"metadata": {"namespace": "default", "name": name}, "status": {"phase": phase}}


class Server:
    """An API server with these pods by address; it counts the requests for each, and the most at a time."""

    def __init__(self, pods: dict[Address, list[object]]) -> None:
        self.pods = pods
        self.asked: list[Address] = []
        self.now = self.most = 0
        self.time_s = 0.0

    async def list_pods(self, address: Address) -> list[object]:
        """Return the pods, after other tasks had a turn."""
        self.asked.append(address)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return self.pods.get(address, [])

    def names(self) -> PodNames:
        """Return the cache in front of it."""
        return PodNames(self.list_pods, lambda: self.time_s)


async def test_names_are_asked_for_once_until_they_are_old() -> None:
    """Both families; an address without a pod is not asked for again either."""
    server = Server({A: [pod("web")], B: [pod("six")]})
    names, gone = server.names(), ip_address("10.244.9.9")
    for _ in range(2):
        assert await names.find([A, B, gone]) == {A: "default/web", B: "default/six"}
    assert server.asked == [A, B, gone]
    server.pods[A], server.time_s = [pod("next")], FRESH_S
    assert await names.find([A]) == {A: "default/next"}


@pytest.mark.parametrize(
    ("pods", "name"),
    [
        ([pod("old", "Succeeded"), pod("new")], "default/new"),
        ([pod("a"), pod("b")], ""),  # both in the host's network
        ([pod("dead", "Failed")], ""),
        ([{}, None, 7, {"metadata": {"namespace": 1, "name": "x"}}, {"status": []}], ""),
        ([pod("evil\x1b[2J")], "default/evil\\x1b[2J"),
    ],
)
async def test_one_running_pod_names_an_address(pods: list[object], name: str) -> None:
    """No guess between several, and nothing that a terminal would obey."""
    assert (await Server({A: pods}).names().find([A])).get(A, "") == name


async def test_requests_and_entries_are_bounded() -> None:
    """A flood of addresses is asked for a few at a time, and the cache forgets the oldest."""
    server = Server({})
    names = server.names()
    await names.find([ip_address(number) for number in range(MAX_ENTRIES + 10)])
    assert server.most == MAX_REQUESTS
    assert len(names._known) == MAX_ENTRIES


async def hang(_: Address) -> list[object]:
    """Never answer."""
    await asyncio.get_running_loop().create_future()
    return []


async def refuse(_: Address) -> list[object]:
    """Refuse, as RBAC does."""
    raise StoreError("RBAC gives this user no list of pods")


@pytest.mark.parametrize(("list_pods", "reason"), [(hang, "no answer"), (refuse, "RBAC")])
async def test_a_failure_is_an_error_and_not_cached(
    list_pods: Callable[[Address], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader learns why there are no names."""
    monkeypatch.setattr(pod_names, "PATIENCE_S", 0.01)
    names = PodNames(list_pods)
    for _ in range(2):
        with pytest.raises(StoreError, match=reason):
            await names.find([A, B])
