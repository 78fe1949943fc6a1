"""The nat rules of `vxlandctl test --dnat`: their text, failures, and removal. A real nft reads it in tests/netns."""

from __future__ import annotations

from ipaddress import ip_address

from vxland.firewall.nat_test import NatRules, remove_nat_rules
from vxland.firewall.nft_listing import NftTable
from vxland.firewall.rules import Family, Flavour
from vxland.model.errors import StartError

PEERS = {40001: ip_address("10.244.1.0"), 40002: ip_address("10.244.2.0")}


class FakeNft:
    """nft with tables by family and name, or a refusal."""

    def __init__(self, *tables: tuple[str, str], refusal: str = "") -> None:
        self.tables = set(tables)
        self.refusal = refusal
        self.scripts: list[str] = []

    def installed(self, flavour: Flavour, family: Family) -> bool:
        """Return True: it is installed."""
        return (flavour, family) == ("nftables", 4)

    async def nft_table(self, family: str, name: str) -> NftTable | None:
        """Return a table that exists."""
        return NftTable((), {}, {}) if (family, name) in self.tables else None

    async def nft(self, script: str) -> None:
        """Note the script, or refuse it."""
        if self.refusal:
            raise StartError(self.refusal, "repair it")
        self.scripts.append(script)


async def test_rules() -> None:
    """A former table is replaced; each source port has its peer, and nothing but the own address and port is turned."""
    nft = FakeNft()
    assert await NatRules(nft, "flannel.1", ip_address("10.244.0.0"), 9473).set(PEERS) == ""
    (script,) = nft.scripts
    assert script.startswith("add table ip vxland-test-flannel.1\ndelete table ip vxland-test-flannel.1\n")
    assert "elements = { 40001 : 10.244.1.0, 40002 : 10.244.2.0 }" in script
    assert "ip daddr 10.244.0.0 tcp dport 9473 dnat to tcp sport map @peers" in script


async def test_a_refusal() -> None:
    """The reason is the result: a node without nft is tested otherwise."""
    nft = FakeNft(refusal="nft is not installed")
    assert await NatRules(nft, "flannel.1", ip_address("fd00::"), 9473).set({1: ip_address("fd00:1::")}) == nft.refusal


async def test_removal() -> None:
    """Only tables that exist are removed, and a refusal is no failure."""
    nft = FakeNft(("ip6", "vxland-test-flannel.1"), ("ip", "vxland-flannel.1"))
    assert await remove_nat_rules(nft, "flannel.1")
    assert nft.scripts == ["add table ip6 vxland-test-flannel.1\ndelete table ip6 vxland-test-flannel.1\n"]
    assert not await remove_nat_rules(FakeNft(), "flannel.1")
    assert not await remove_nat_rules(FakeNft(("ip", "vxland-test-flannel.1"), refusal="busy"), "flannel.1")
