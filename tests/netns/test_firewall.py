"""The rules on a real kernel, with the real iptables (both its backends) and nft."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_network

import pytest

from tests.netns.firewall import SPOILS, WANT, Backend, Node
from tests.netns.namespace import Netns
from vxland.firewall.forward_rules import ForwardedPacket, Rule, nft_rule
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import FAMILIES, Family, nft_shape, nft_table, nft_text, restore_text
from vxland.firewall.sync import FirewallSync
from vxland.lab import shell
from vxland.model.errors import StartError

pytestmark = pytest.mark.netns

FOREIGN = """\
*nat
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark --mark 0x8000/0x8000 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "flanneld is not mine" -j KUBE-FORWARD
-A KUBE-FORWARD -m mark --mark 0x8000/0x8000 -j ACCEPT
COMMIT
"""
FOREIGN_NFT = """\
table inet admin {
	chain post {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark 0x00008000 masquerade
	}
}
"""


@pytest.fixture
def node(netns: Callable[[], Netns], backend: Backend) -> Node:
    """A node without any rule."""
    return Node(netns(), backend)


def foreign(node: Node) -> None:
    """Give the node rules of others."""
    for tables in ("iptables", "ip6tables"):
        shell.run(*shell.exec_in(node.ns.name, f"{tables}-restore", "--noflush"), stdin=FOREIGN)
    shell.run(*shell.exec_in(node.ns.name, "nft", "-f", "-"), stdin=FOREIGN_NFT)


def test_the_rules_are_listed_as_flannels_golden_text(node: Node) -> None:
    """The tools print the text of the unit tests, byte for byte, in both families; and nft's JSON is as expected."""
    node.settle()
    if node.backend == "nft":
        for family, kind in ((4, "ip"), (6, "ip6")):
            listed = node.ns.run("nft", "list", "table", kind, f"flannel-ipv{family}")
            assert listed == nft_text(WANT, 4 if family == 4 else 6)
        for version in FAMILIES:
            table = node.ns.run_async(partial(FirewallPrograms().nft_table, *nft_table(version)))
            assert table is not None
            assert table.shape == nft_shape(WANT, version)
        return
    for family in FAMILIES:
        listed = node.ns.run("iptables-save" if family == 4 else "ip6tables-save")
        text = restore_text(WANT, family, {})
        for rule in text.splitlines():
            assert listed.count(f"{rule}\n") == 1 or rule == "COMMIT"
        assert listed.count("\n-A ") == text.count("\n-A ")
        chain = [line for line in listed.splitlines() if line.startswith("-A FLANNEL-POSTRTG")]
        assert chain == [line for line in text.splitlines() if line.startswith("-A FLANNEL-POSTRTG")]


def test_a_second_daemon_changes_nothing(node: Node) -> None:
    """Neither a handle nor a counter differs after another start and ten more checks."""
    node.settle()
    for address in ("127.0.0.1", "::1"):
        node.ns.run("ping", "-c1", address)  # counted by the jump
    before = node.rules("-c")
    assert "[0:0] -A POSTROUTING" not in before

    async def checks(sync: FirewallSync) -> int:
        for _ in range(10):
            assert await sync.settle()
        return sync.counters.restored.total()

    assert node.run_sync(checks) == 0
    assert node.rules("-c") == before


@pytest.mark.parametrize("backend", ["nf_tables"], indirect=True)
def test_no_second_jump_is_added_if_iptables_save_omits_the_table(node: Node) -> None:
    """It omits a table in which nft has made a rule that iptables cannot express."""
    node.settle()
    node.ns.run("iptables", "-t", "nat", "-A", "PREROUTING", "-j", "RETURN")
    node.ns.run("nft", "add rule ip nat PREROUTING numgen random mod 2 0 return")
    assert "*nat" not in node.ns.run("iptables-save")
    node.settle()
    assert node.ns.run("iptables", "-t", "nat", "-S", "POSTROUTING").count("FLANNEL-POSTRTG") == 1


@pytest.mark.parametrize("backend", ["nf_tables"], indirect=True)
def test_a_built_in_chain_that_cannot_be_listed_is_left_alone(node: Node) -> None:
    """Its jumps cannot be counted, so none is added; the error names the chain."""
    node.settle()
    node.ns.run("nft", "add rule ip nat POSTROUTING numgen random mod 2 0 return")
    before = node.ns.run("nft", "-a", "list", "table", "ip", "nat")

    async def checks(sync: FirewallSync) -> str:
        assert not await sync.settle()
        assert not await sync.settle()
        return sync.error

    assert "chain `POSTROUTING' in table `nat' is incompatible" in node.run_sync(checks)
    assert node.ns.run("nft", "-a", "list", "table", "ip", "nat") == before


@pytest.mark.parametrize("what", SPOILS)
def test_spoiled_rules_are_restored_by_the_next_check(node: Node, what: str) -> None:
    """They are complete and in order, in both families, after one check."""
    node.settle()
    right = node.ours()

    async def main(sync: FirewallSync) -> dict[Family, int]:
        assert await sync.settle()
        for family in FAMILIES:
            await asyncio.to_thread(node.spoil, family, what)
        assert await sync.settle()
        assert await sync.settle()
        return sync.counters.restored

    assert node.run_sync(main) == {4: 1, 6: 1}
    assert sorted(node.ours()) == sorted(right)


def test_the_other_flavour_is_cleaned_and_others_rules_stay(node: Node) -> None:
    """After a change of flavour and back, kube-proxy's and the administrator's rules are the same."""
    foreign(node)
    before = node.rules(), node.ns.run("nft", "list", "table", "inet", "admin")
    other = Node(node.ns, "nf_tables" if node.backend == "nft" else "nft")
    for one in (node, other, node):
        one.settle()
        marks = ("FLANNEL-", "table ip flannel-ipv4", "table ip6 flannel-ipv6")
        shown = node.rules() + node.ns.run("nft", "list", "tables")
        assert [mark in shown for mark in marks] == [one.backend != "nft", one.backend == "nft", one.backend == "nft"]
    assert node.run_sync(FirewallSync.remove, None)
    assert (node.rules(), node.ns.run("nft", "list", "table", "inet", "admin")) == before
    assert not node.run_sync(FirewallSync.remove, None)


def test_no_rule_of_an_older_network_is_left(node: Node) -> None:
    """Another network and subnet, then one family less, then no masquerade: each gives the rules of a fresh start."""
    node.settle()
    for want in (
        replace(
            WANT,
            networks=(ip_network("10.42.0.0/16"), ip_network("fd00:42::/32")),
            subnets=(ip_network("10.42.7.0/24"), ip_network("fd00:42:7::/64")),
        ),
        replace(WANT, networks=WANT.networks[:1], subnets=WANT.subnets[:1]),
        replace(WANT, masquerade=False),
        replace(WANT, forward=False),
    ):
        node.settle(want)
        changed = node.ours()
        assert changed
        assert node.run_sync(FirewallSync.remove, None)
        assert not node.ours()
        node.settle(want)
        assert sorted(node.ours()) == sorted(changed)


def test_no_wanted_rules_removes_those_of_an_earlier_daemon(node: Node) -> None:
    """Settings that switch masquerade and forwarding off remove the rules; absent settings change nothing."""
    node.settle()
    before = node.ours()
    node.settle(None)
    assert node.ours() == before
    node.settle(replace(WANT, masquerade=False, forward=False))
    assert not node.ours()


ODD_NFT = """\
table inet odd {
	set lan {
		type ifname
		elements = { "cni0", "eth1" }
	}
	map verdicts {
		type ipv4_addr : verdict
		elements = { 192.0.2.1 : drop }
	}
	chain passing {
		type filter hook forward priority filter; policy drop;
		numgen random mod 2 0 log prefix "odd" drop
		ip daddr & 0.0.0.255 == 1 drop
		fib daddr type multicast drop
		ip saddr { 192.0.2.1, 198.51.100.0/24, 203.0.113.1-203.0.113.9 } counter drop
		meta l4proto { tcp, udp } th dport 53 limit rate 10/second drop
		ip saddr vmap @verdicts
		ct state vmap { invalid : drop, established : goto known }
		RULE
	}
	chain known {
		return
	}
}
"""


@pytest.mark.parametrize("backend", ["nft"], indirect=True)
@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("iifname @lan accept", None),
        ('iifname "cni0" accept', True),
        ('iifname "eth1" accept', False),
        ("ct state new ip saddr 10.244.0.0/16 accept", True),
        ("ct state established,related accept", False),
    ],
)
def test_the_json_of_unusual_rules(node: Node, rule: str, matches: bool | None) -> None:
    """No statement fails; those that are not understood perhaps match, and a known rule behind them is evaluated."""
    packet = ForwardedPacket(WANT.subnets[0], WANT.networks[0], "cni0", "flannel.1")
    shell.run(*shell.exec_in(node.ns.name, "nft", "-f", "-"), stdin=ODD_NFT.replace("RULE", rule))

    async def read() -> list[Rule | None]:
        programs = FirewallPrograms()
        (base,) = await programs.forward_chains()
        assert (base["table"], base["name"], base["policy"]) == ("odd", "passing", "drop")
        with pytest.raises(StartError, match="the chain gone of nftables"):  # it may have vanished since it was listed
            await programs.nft_rules("inet", "odd", "gone")
        return [nft_rule(expr, packet) for expr in await programs.nft_rules("inet", "odd", "passing")]

    *unusual, last = node.ns.run_async(read)
    assert all(each is not None and each.matches is not True for each in unusual)
    assert last == Rule(matches, "accept")
