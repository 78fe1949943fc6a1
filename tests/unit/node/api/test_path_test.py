"""Command test: peers that are named, one test at a time, and a client that leaves. The kernel is not needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from vxland.model.errors import VxlandError
from vxland.model.lease import Lease, Mac, Vtep
from vxland.node.api.path_test import PathTestAnswers
from vxland.ops.api_server import RequestError
from vxland.probes.path_checks import Check, PeerResult

VTEPS = [Vtep(ip_address(f"192.0.2.{number}"), Mac(number)) for number in (1, 2)]
LEASES = [
    Lease(ip_network(subnet), VTEPS[number], node=f"node{number}")
    for number in (0, 1)
    for subnet in (f"10.244.{number + 1}.0/24", f"fd00:{number + 1}::/64")
]


class FakePlane:
    """A plane of both families, whose tests pass, and note their end."""

    def __init__(self) -> None:
        self.versions = frozenset({4, 6})
        self.mtu = 1450
        self.settings = SimpleNamespace(device="flannel.1")
        self.path_test = self
        self.ended = 0

    async def run(self, leases: Sequence[Lease], mtu: int, *, dnat: bool) -> AsyncGenerator[PeerResult]:
        """Yield a result for each."""
        assert (mtu, dnat) == (self.mtu, False)
        try:
            for lease in leases:
                await asyncio.sleep(0)
                yield PeerResult(lease, {"ping": Check("passed")})
        finally:
            self.ended += 1


def made(planes: int = 1) -> tuple[PathTestAnswers, list[FakePlane]]:
    """Return the command of a node with so many planes."""
    fakes = [FakePlane() for _ in range(planes)]
    node: Any = SimpleNamespace(planes=fakes, leases=LEASES, sample=SimpleNamespace(not_ready="opening devices"))
    return PathTestAnswers(lambda: node), fakes


async def subnets(to: str) -> list[str]:
    """Return the subnets of the results."""
    items = [item async for item in made()[0].test(to)]
    assert items[0] == {"peers": len(items) - 1}
    return [item["subnet"] for item in items[1:]]  # type: ignore[index]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("", ["10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64", "fd00:2::/64"]),
        ("10.244.2.0/24", ["10.244.2.0/24"]),
        ("10.244.0.0/16", ["10.244.1.0/24", "10.244.2.0/24"]),
        ("10.244.2.7", ["10.244.2.0/24"]),
        ("fd00:1::7", ["fd00:1::/64"]),
        ("192.0.2.1", ["10.244.1.0/24", "fd00:1::/64"]),
        ("node1", ["10.244.2.0/24", "fd00:2::/64"]),
        ("node9|192.0.2.2", ["10.244.2.0/24", "fd00:2::/64"]),
        ("10.244.2.0/24,fd00:1::/64,10.244.2.0/24", ["10.244.2.0/24", "fd00:1::/64"]),
    ],
)
async def test_targets(to: str, expected: list[str]) -> None:
    """By subnet, wider prefix, address, VTEP and name; each peer once, in order."""
    assert await subnets(to) == expected


@pytest.mark.parametrize(
    "to",
    [
        "10.9.0.0/16",
        "10.9.0.1",
        "192.0.2.9",
        "node9",
        "10.244.2.1/24",
        "x/24",
        "10.244.2.0/24,",
        "|",
        ",".join("1" * 1001),
    ],
)
async def test_targets_that_are_none(to: str) -> None:
    """Refused with the value, even if another target is a peer's; the next test can run."""
    answers, _ = made()
    with pytest.raises(RequestError, match=r"^--to: "):
        await anext(answers.test(to))
    assert await anext(answers.test())


async def test_one_at_a_time() -> None:
    """A second one is refused while a client reads the first, and runs once that has left."""
    answers, (plane,) = made()
    async with aclosing(answers.test()) as first:
        await anext(first)
        await anext(first)
        with pytest.raises(VxlandError, match="another test runs"):
            await anext(answers.test())
    assert plane.ended == 1
    assert len([item async for item in answers.test()]) == 1 + len(LEASES)


async def test_before_there_is_a_device() -> None:
    """Refused with the stage of the start."""
    answers, _ = made(planes=0)
    with pytest.raises(VxlandError, match="there is no device yet: opening devices"):
        await anext(answers.test())
