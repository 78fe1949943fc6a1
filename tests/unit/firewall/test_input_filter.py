"""The input filter's table if nft fails, is late, or lists something else; the real nft: tests/netns/interop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from structlog.testing import capture_logs

from tests.patience import PATIENCE_S
from vxland.firewall.input_filter import InputFilter
from vxland.firewall.nft_listing import NftTable
from vxland.model.errors import StartError
from vxland.model.lease import Subnet
from vxland.model.steps import at_once

HOSTS: set[Subnet] = {ip_network("192.0.2.1"), ip_network("192.0.2.2")}


class FakeNft:
    """One table: the one written last, as long as nothing fails."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.table: NftTable | None = None
        self.failure: StartError | None = None
        self.refused = ""
        """Beginning of the scripts that fail, as an element is not as it was left."""
        self.listings = 0

    def installed(self, flavour: str, family: int) -> bool:
        """The program is installed."""
        return (flavour, family) == ("nftables", 4)

    async def nft_table(self, family: str, name: str) -> NftTable | None:  # noqa: ARG002  (the Protocol's)
        """Return the table."""
        if self.failure is not None:
            raise self.failure
        self.listings += 1
        return self.table

    async def nft(self, script: str) -> None:
        """Take a whole table; scripts that change elements have no effect here."""
        if self.failure is not None:
            raise self.failure
        self.scripts.append(script)
        await asyncio.sleep(0)
        if self.refused and script.startswith(self.refused):
            raise StartError("`nft -f -` failed: element does not exist", "try again")
        if script.startswith("add table"):
            text = script.split("\n", 2)[2]
            listed = [frozenset(each.split(", ")) for each in re.findall("elements = { (.*) }", text)]
            elements = dict(zip(("hosts", "prefixes"), listed, strict=False))
            self.table = NftTable((re.sub("elements = .*", "", text),), elements, {"foreign": 0}) if text else None


@pytest.fixture
def nft() -> FakeNft:
    """A kernel without a table."""
    return FakeNft()


def filter_of(nft: FakeNft, device: str = "flannel.1", resync_s: float = 86400) -> InputFilter:
    """The filter of a node."""
    return InputFilter(nft, device, ip_address("192.0.2.9"), 8472, resync_s)


@asynccontextmanager
async def running(kept: InputFilter) -> AsyncIterator[None]:
    """Run the filter meanwhile."""
    task = asyncio.create_task(kept.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def nets(*texts: str) -> set[Subnet]:
    """Return sources."""
    return {ip_network(text) for text in texts}


def element(verb: str, name: str, *elements: str) -> str:
    """Return the line of a script."""
    return f"{verb} element ip vxland-flannel.1 {name} {{ {', '.join(elements)} }}\n"


async def test_nothing_is_changed_before_the_leases_are_known(nft: FakeNft) -> None:
    """An empty set would drop every peer's datagrams."""
    assert await filter_of(nft).settle()
    assert nft.scripts == []


async def test_a_failure_is_logged_once_and_retried(nft: FakeNft) -> None:
    """The log names a remedy; then the table is made."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    nft.failure = StartError("nft is not installed", "install the package nftables")
    with capture_logs() as logs:
        assert [await kept.settle() for _ in range(3)] == [False] * 3
    assert kept.error == "nft is not installed"
    assert [(log["event"], log["error"], log["remedy"]) for log in logs] == [
        ("input_filter_failed", "nft is not installed", "fix that, or write security.input_filter: off")
    ]
    nft.failure = None
    assert await kept.settle()
    assert (kept.error, len(nft.scripts)) == ("", 1)


async def test_a_right_table_is_left_alone(nft: FakeNft) -> None:
    """Checks write nothing, and read the count."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    assert [await kept.settle() for _ in range(3)] == [True] * 3
    assert len(nft.scripts) == 1
    assert nft.table is not None
    nft.table = replace(nft.table, packets={"foreign": 12})
    assert await kept.settle()
    assert kept.dropped == 12
    assert len(nft.scripts) == 1


async def test_a_check_changes_the_elements_that_differ(nft: FakeNft) -> None:
    """Somebody has deleted one and added another."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    assert await kept.settle()
    assert nft.table is not None
    nft.table = replace(nft.table, elements={"hosts": frozenset({"192.0.2.2", "192.0.2.3"})})
    assert await kept.settle()
    assert nft.scripts[1:] == [element("delete", "hosts", "192.0.2.3") + element("add", "hosts", "192.0.2.1")]


async def test_a_change_costs_one_run_of_nft_and_its_own_elements(nft: FakeNft) -> None:
    """The table had been listed, and compared with all leases, for each change of one lease."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    async with running(kept):
        await _until(lambda: nft.listings == 2)  # before and after it was made
        at_once(kept.follow(nets("192.0.2.1"), nets("192.0.2.3")))
        await _until(lambda: len(nft.scripts) == 2)
        at_once(kept.follow(nets("192.0.2.3"), nets("192.0.2.1", "198.51.100.0/28")))
        await _until(lambda: len(nft.scripts) == 3)
        at_once(kept.follow(nets("192.0.2.77"), nets("192.0.2.2")))  # not there, and there
    assert nft.scripts[1:] == [
        element("delete", "hosts", "192.0.2.1") + element("add", "hosts", "192.0.2.3"),
        element("delete", "hosts", "192.0.2.3")
        + element("add", "hosts", "192.0.2.1")
        + element("add", "prefixes", "198.51.100.0/28"),
    ]
    assert nft.listings == 2


async def test_a_storm_of_changes_is_joined(nft: FakeNft) -> None:
    """Each run of nft costs 5 ms of CPU time. What comes and goes in between is not written at all."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    async with running(kept):
        await _until(lambda: nft.listings == 2)
        for number in range(1000):
            at_once(
                kept.follow(
                    nets(f"10.0.{number >> 8}.{number & 255}"), nets(f"10.0.{number + 1 >> 8}.{number + 1 & 255}")
                )
            )
            await asyncio.sleep(0)
        last = element("add", "hosts", "10.0.3.232")
        await _until(lambda: nft.scripts[-1].endswith(last))
    assert len(nft.scripts) < 5
    assert sum(script.count("10.0.") for script in nft.scripts) < 10


async def test_a_refused_change_replaces_the_table(nft: FakeNft) -> None:
    """Somebody has deleted the element that goes: the rest of the change counts all the same."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    async with running(kept):
        await _until(lambda: nft.listings == 2)
        nft.refused = "delete element"
        at_once(kept.follow(nets("192.0.2.1"), nets("192.0.2.3")))
        await _until(lambda: nft.listings == 3)
    assert nft.table is not None
    assert nft.table.elements["hosts"] == {"192.0.2.2", "192.0.2.3"}
    assert kept.error == ""


async def test_a_change_after_a_failure_is_not_lost(nft: FakeNft) -> None:
    """The change that failed is written with the next one: everything is compared."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    async with running(kept):
        await _until(lambda: nft.listings == 2)
        nft.failure = StartError("`nft -f -` failed: out of memory", "free some")
        at_once(kept.follow((), nets("192.0.2.3")))
        await _until(lambda: kept.error != "")
        nft.failure = None
        at_once(kept.follow((), nets("192.0.2.4")))
        await _until(lambda: kept.error == "")
    assert nft.scripts[1:] == [element("add", "hosts", "192.0.2.3", "192.0.2.4")]


async def test_an_address_that_is_covered_while_the_table_is_made_is_not_lost(nft: FakeNft) -> None:
    """The table without it counted as what was wanted, and every check left it so."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    making = asyncio.create_task(kept.settle())
    await _until(lambda: len(nft.scripts) == 1)
    kept.cover(ip_address("203.0.113.7"))
    await making
    assert await kept.settle()
    assert "ip daddr { 192.0.2.9, 203.0.113.7 }" in nft.scripts[-1]


async def test_an_element_of_an_unknown_form_replaces_the_table(nft: FakeNft) -> None:
    """It cannot be deleted by its text, so the table is written again, and that is logged."""
    kept = filter_of(nft)
    at_once(kept.follow((), HOSTS))
    assert await kept.settle()
    assert nft.table is not None
    nft.table = replace(nft.table, elements={"hosts": frozenset({"192.0.2.1", ""})})
    with capture_logs() as logs:
        assert [await kept.settle() for _ in range(2)] == [True] * 2
    assert [log["event"] for log in logs] == ["input_filter_repaired"]
    assert nft.scripts[1] == nft.scripts[0]
    assert len(nft.scripts) == 2


async def test_prefixes_within_prefixes_are_listed_once(nft: FakeNft) -> None:
    """Overlapping intervals are refused by nft."""
    kept = filter_of(nft, "odd name!")
    at_once(kept.follow((), nets("10.0.0.0/8", "10.1.0.0/16", "198.51.100.0/28", "10.0.0.9/32")))
    assert await kept.settle()
    (script,) = nft.scripts
    assert "table ip vxland-odd_name_ {" in script
    assert "elements = { 10.0.0.0/8, 198.51.100.0/28 }" in script
    assert "elements = { 10.0.0.9 }" in script


async def test_a_table_that_is_gone_is_restored_by_the_next_check(nft: FakeNft) -> None:
    """Nothing else has to change; after remove() it is gone for good."""
    kept = filter_of(nft, resync_s=0.01)
    async with running(kept):
        at_once(kept.follow((), HOSTS))
        await _until(lambda: len(nft.scripts) == 1)
        nft.table = None
        await _until(lambda: len(nft.scripts) == 2)
    await kept.remove()
    assert await kept.settle()  # no table is wanted any more
    assert nft.scripts[-1] == "add table ip vxland-flannel.1\ndelete table ip vxland-flannel.1\n"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (a list sets no event)
            await asyncio.sleep(0.005)
