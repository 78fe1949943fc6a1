"""The input filter's table if nft fails, is late, or lists something else; the real nft: tests/netns/interop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from structlog.testing import capture_logs

from tests.patience import PATIENCE_S
from vxland.firewall.input_filter import InputFilter
from vxland.firewall.nft_listing import NftTable
from vxland.model.errors import StartError
from vxland.model.lease import Subnet

HOSTS: set[Subnet] = {ip_network("192.0.2.1"), ip_network("192.0.2.2")}


class FakeNft:
    """One table: the one written last, as long as nothing fails."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.table: NftTable | None = None
        self.failure: StartError | None = None

    def installed(self, flavour: str, family: int) -> bool:
        """The program is installed."""
        return (flavour, family) == ("nftables", 4)

    async def nft_table(self, family: str, name: str) -> NftTable | None:  # noqa: ARG002  (the Protocol's)
        """Return the table."""
        if self.failure is not None:
            raise self.failure
        return self.table

    async def nft(self, script: str) -> None:
        """Take a whole table; scripts that change elements have no effect here."""
        if self.failure is not None:
            raise self.failure
        self.scripts.append(script)
        if script.startswith("add table"):
            text = script.split("\n", 2)[2]
            listed = [frozenset(each.split(", ")) for each in re.findall("elements = { (.*) }", text)]
            elements = dict(zip(("hosts", "prefixes"), listed, strict=False))
            self.table = NftTable((re.sub("elements = .*", "", text),), elements, {"foreign": 0}) if text else None


@pytest.fixture
def nft() -> FakeNft:
    """A kernel without a table."""
    return FakeNft()


def filter_of(nft: FakeNft, device: str = "flannel.1") -> InputFilter:
    """The filter of a node."""
    return InputFilter(nft, device, ip_address("192.0.2.9"), 8472, 0.01)


async def test_nothing_is_changed_before_the_leases_are_known(nft: FakeNft) -> None:
    """An empty set would drop every peer's datagrams."""
    assert await filter_of(nft).settle()
    assert nft.scripts == []


async def test_a_failure_is_logged_once_and_retried(nft: FakeNft) -> None:
    """The log names a remedy; then the table is made."""
    kept = filter_of(nft)
    kept.set_sources(HOSTS)
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
    """Checks write nothing and read the count; a change of leases changes elements."""
    kept = filter_of(nft)
    kept.set_sources(HOSTS)
    assert [await kept.settle() for _ in range(3)] == [True] * 3
    assert len(nft.scripts) == 1
    assert nft.table is not None
    nft.table = replace(nft.table, packets={"foreign": 12})
    kept.set_sources({ip_network("192.0.2.2"), ip_network("192.0.2.3")})
    assert await kept.settle()
    assert kept.dropped == 12
    assert nft.scripts[1:] == [
        "delete element ip vxland-flannel.1 hosts { 192.0.2.1 }\nadd element ip vxland-flannel.1 hosts { 192.0.2.3 }\n"
    ]


async def test_an_element_of_an_unknown_form_replaces_the_table(nft: FakeNft) -> None:
    """It cannot be deleted by its text, so the table is written again, and that is logged."""
    kept = filter_of(nft)
    kept.set_sources(HOSTS)
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
    kept.set_sources({ip_network(net) for net in ("10.0.0.0/8", "10.1.0.0/16", "198.51.100.0/28", "10.0.0.9/32")})
    assert await kept.settle()
    (script,) = nft.scripts
    assert "table ip vxland-odd_name_ {" in script
    assert "elements = { 10.0.0.0/8, 198.51.100.0/28 }" in script
    assert "elements = { 10.0.0.9 }" in script


async def test_a_change_is_applied_at_once(nft: FakeNft) -> None:
    """It does not wait for the next check, which restores a table that is gone."""
    kept = filter_of(nft)
    running = asyncio.create_task(kept.run())
    try:
        kept.set_sources(HOSTS)
        await _until(lambda: len(nft.scripts) == 1)
        nft.table = None
        await _until(lambda: len(nft.scripts) == 2)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await kept.remove()
    assert await kept.settle()  # no table is wanted any more
    assert nft.scripts[-1] == "add table ip vxland-flannel.1\ndelete table ip vxland-flannel.1\n"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (a list sets no event)
            await asyncio.sleep(0.005)
