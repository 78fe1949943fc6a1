"""The rules on a real kernel, with the real iptables (both its backends) and nft, and what packets make of them.

    pod                       node                            outside
  +------------------+      +----------------------------+      +-----------------------------+
  | eth0 10.244.1.5 -+------+- cni0 10.244.1.1           |      |                             |
  |                  |      |  up0  192.0.2.1 -----------+------+- eth0 192.0.2.2             |
  |                  |      |  lo   198.51.100.1         |      |  lo   10.244.2.5: a peer's  |
  +------------------+      +----------------------------+      |       pod, without tunnel   |
                                                                +-----------------------------+
In IPv6: fd00:244:1::5, 2001:db8::1, 2001:db8:51::1, fd00:244:2::5, and so on.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import pytest

from vxland.control.keeper import RulesKeeper
from vxland.control.rules import FAMILIES, Family, Flavour, RulesWant, nft_text, restore_text
from vxland.demo import shell
from vxland.kernel.firewall import Firewall

pytestmark = pytest.mark.netns

T = TypeVar("T")
Backend = Literal["nf_tables", "legacy", "nft"]

WANT = RulesWant(
    networks=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")),
    subnets=(ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")),
    masquerade=True,
    forward=True,
)
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


class Netns(Protocol):
    """conftest.py's namespaces, which no test module can import."""

    name: str

    def run(self, *command: str) -> str:
        """Output of a command run inside."""
        ...

    def ip(self, command: str) -> str:
        """Output of one `ip` command."""
        ...

    def run_async(
        self, main: Callable[[], Coroutine[Any, Any, T]], runner: Callable[[Coroutine[Any, Any, T]], T] = ...
    ) -> T:
        """What `main()` returns, run inside."""
        ...


@dataclass(frozen=True)
class Node:
    """A namespace whose iptables writes to one backend."""

    ns: Netns
    backend: Backend

    @property
    def flavour(self) -> Flavour:
        """The flavour that tests keep in it."""
        return "nftables" if self.backend == "nft" else "iptables"

    def keep(self, job: Callable[[RulesKeeper], Awaitable[T]], want: RulesWant | None = WANT) -> T:
        """What `job` returns of a new keeper inside, which wants `want`."""

        async def main() -> T:
            keeper = RulesKeeper(Firewall(), 5)
            keeper.set_want(want, self.flavour)
            return await job(keeper)

        return self.ns.run_async(main)

    def settle(self, want: RulesWant | None = WANT) -> None:
        """A daemon that starts, sets its rules and ends."""
        assert self.keep(RulesKeeper.settle, want)

    def rules(self, *options: str) -> str:
        """Everything in iptables and nft, without comment lines; `-c` shows counters and handles."""
        shown = self.ns.run("iptables-save", *options) + self.ns.run("ip6tables-save", *options)
        if options or self.backend == "nft":
            shown += self.ns.run("nft", "-a" if options else "-s", "list", "ruleset")
        return re.sub("^#.*\n", "", shown, flags=re.MULTILINE)

    def ours(self) -> list[str]:
        """The rules of flannel's chains and tables, and the jumps to them."""
        if self.backend == "nft":
            found = []
            for family in ("ip", "ip6"):
                table = f"flannel-ipv{'4' if family == 'ip' else '6'}"
                if table in self.ns.run("nft", "list", "tables", family):
                    found += self.ns.run("nft", "list", "table", family, table).splitlines()
            return found
        return [line for line in self.rules().splitlines() if "FLANNEL" in line]

    def spoil(self, family: Family, what: str) -> None:
        """Do to the rules what an administrator, or another daemon, may do."""
        tables = "iptables" if family == 4 else "ip6tables"
        kind = "ip" if family == 4 else "ip6"
        for command in SPOILS[what][self.flavour]:
            self.ns.run(*command.format(tables=tables, kind=kind, name=f"flannel-ipv{family}").split())


SPOILS: dict[str, dict[Flavour, list[str]]] = {
    "masquerade chain emptied": {
        "iptables": ["{tables} -t nat -F FLANNEL-POSTRTG"],
        "nftables": ["nft flush chain {kind} {name} postrtg"],
    },
    "one rule deleted": {
        "iptables": ["{tables} -t filter -D FLANNEL-FWD 2"],
        "nftables": ["nft flush chain {kind} {name} forward", "nft add rule {kind} {name} forward accept"],
    },
    "a rule of somebody inserted": {
        "iptables": ["{tables} -t nat -I FLANNEL-POSTRTG -j ACCEPT"],
        "nftables": ["nft insert rule {kind} {name} postrtg accept"],
    },
    "all gone": {
        "iptables": ["{tables} -t nat -F", "{tables} -t nat -X", "{tables} -F", "{tables} -X"],
        "nftables": ["nft delete table {kind} {name}"],
    },
    "hook gone": {
        "iptables": ["{tables} -t nat -F POSTROUTING"],
        "nftables": ["nft flush chain {kind} {name} postrtg", "nft delete chain {kind} {name} postrtg"],
    },
}


@pytest.fixture(params=["nf_tables", "legacy", "nft"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend, to which the `iptables` of the path writes, as update-alternatives would have it."""
    backend: Backend = request.param
    suffix = "legacy" if backend == "legacy" else "nft"
    for family in ("iptables", "ip6tables"):
        for command in ("", "-save", "-restore"):
            (tmp_path / f"{family}{command}").symlink_to(f"/usr/sbin/{family}-{suffix}{command}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return backend


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
    """What the tools print is the text of the unit tests, byte for byte, in both families."""
    node.settle()
    if node.backend == "nft":
        for family, kind in ((4, "ip"), (6, "ip6")):
            listed = node.ns.run("nft", "list", "table", kind, f"flannel-ipv{family}")
            assert listed == nft_text(WANT, 4 if family == 4 else 6)
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
    """Neither a handle nor a counter differs after another start and ten more looks."""
    node.settle()
    for address in ("127.0.0.1", "::1"):
        node.ns.run("ping", "-c1", address)  # counted by the jump
    before = node.rules("-c")
    assert "[0:0] -A POSTROUTING" not in before

    async def looks(keeper: RulesKeeper) -> int:
        for _ in range(10):
            assert await keeper.settle()
        return keeper.counters.mended.total()

    assert node.keep(looks) == 0
    assert node.rules("-c") == before


@pytest.mark.parametrize("backend", ["nf_tables"], indirect=True)
def test_no_second_jump_is_added_where_iptables_save_leaves_the_table_out(node: Node) -> None:
    """It does for a table in which nft has made something that iptables has no words for."""
    node.settle()
    node.ns.run("iptables", "-t", "nat", "-A", "PREROUTING", "-j", "RETURN")
    node.ns.run("nft", "add rule ip nat PREROUTING numgen random mod 2 0 return")
    assert "*nat" not in node.ns.run("iptables-save")
    node.settle()
    assert node.ns.run("iptables", "-t", "nat", "-S", "POSTROUTING").count("FLANNEL-POSTRTG") == 1


@pytest.mark.parametrize("backend", ["nf_tables"], indirect=True)
def test_a_built_in_chain_that_cannot_be_listed_is_left_alone(node: Node) -> None:
    """What is not seen there cannot be kept to one jump; the error says what is in the way."""
    node.settle()
    node.ns.run("nft", "add rule ip nat POSTROUTING numgen random mod 2 0 return")
    before = node.ns.run("nft", "-a", "list", "table", "ip", "nat")

    async def looks(keeper: RulesKeeper) -> str:
        assert not await keeper.settle()
        assert not await keeper.settle()
        return keeper.error

    assert "chain `POSTROUTING' in table `nat' is incompatible" in node.keep(looks)
    assert node.ns.run("nft", "-a", "list", "table", "ip", "nat") == before


@pytest.mark.parametrize("what", SPOILS)
def test_spoiled_rules_are_put_back_by_the_next_look(node: Node, what: str) -> None:
    """Whole and in order, in both families; one look is enough."""
    node.settle()
    right = node.ours()

    async def main(keeper: RulesKeeper) -> dict[Family, int]:
        assert await keeper.settle()
        for family in FAMILIES:
            await asyncio.to_thread(node.spoil, family, what)
        assert await keeper.settle()
        assert await keeper.settle()
        return keeper.counters.mended

    assert node.keep(main) == {4: 1, 6: 1}
    assert sorted(node.ours()) == sorted(right)


def test_the_other_flavour_is_cleaned_and_others_rules_stay(node: Node) -> None:
    """A change of flavour, and back; kube-proxy's and the administrator's rules are the same after all of it."""
    foreign(node)
    before = node.rules(), node.ns.run("nft", "list", "table", "inet", "admin")
    other = Node(node.ns, "nf_tables" if node.backend == "nft" else "nft")
    for one in (node, other, node):
        one.settle()
        marks = ("FLANNEL-", "table ip flannel-ipv4", "table ip6 flannel-ipv6")
        shown = node.rules() + node.ns.run("nft", "list", "tables")
        assert [mark in shown for mark in marks] == [one.backend != "nft", one.backend == "nft", one.backend == "nft"]
    assert node.keep(RulesKeeper.remove, None)
    assert (node.rules(), node.ns.run("nft", "list", "table", "inet", "admin")) == before
    assert not node.keep(RulesKeeper.remove, None)


def test_no_rule_of_an_older_network_is_left(node: Node) -> None:
    """Another network and subnet, then one family less, then no masquerade: each is as if it had been the first."""
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
        assert node.keep(RulesKeeper.remove, None)
        assert not node.ours()
        node.settle(want)
        assert sorted(node.ours()) == sorted(changed)


def test_nothing_wanted_removes_what_an_earlier_daemon_left(node: Node) -> None:
    """Masquerade and forwarding switched off in the settings; and where nothing is said, nothing is touched."""
    node.settle()
    before = node.ours()
    node.settle(None)
    assert node.ours() == before
    node.settle(replace(WANT, masquerade=False, forward=False))
    assert not node.ours()


class Lab:
    """The three namespaces above."""

    def __init__(self, make: Callable[[], Netns], backend: Backend) -> None:
        self.pod, self.outside, ns = make(), make(), make()
        self.node = Node(ns, backend)
        for one in (self.pod, self.outside, ns):
            for scope in ("all", "default"):
                shell.set_sysctl(one.name, f"ipv6.conf.{scope}.accept_dad", 0)
        ns.ip(f"link add cni0 type veth peer name eth0 netns {self.pod.name}")
        ns.ip(f"link add up0 type veth peer name eth0 netns {self.outside.name}")
        shell.ip_batch(ns.name, NODE_SETUP)
        shell.ip_batch(self.pod.name, POD_SETUP)
        shell.ip_batch(self.outside.name, OUTSIDE_SETUP)
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            shell.set_sysctl(ns.name, key, 1)

    def seen(self, source: tuple[Netns, str], target: tuple[Netns, str]) -> str:
        """The address that a datagram comes from, as its receiver sees it."""
        with ExitStack() as stack:
            receiver = stack.enter_context(closing(bound(*target)))
            sender = stack.enter_context(closing(bound(*source)))
            sender.sendto(b"?", receiver.getsockname()[:2])
            return str(receiver.recvfrom(16)[1][0])


def bound(ns: Netns, address: str) -> socket.socket:
    """A UDP socket on an address of a namespace, usable from here."""

    async def main() -> socket.socket:
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)

    sock = ns.run_async(main, asyncio.run)
    sock.settimeout(10)
    sock.bind((address, 0))
    return sock


NODE_SETUP = (
    "addr add 10.244.1.1/24 dev cni0",
    "addr add fd00:244:1::1/64 dev cni0 nodad",
    "addr add 192.0.2.1/24 dev up0",
    "addr add 2001:db8::1/64 dev up0 nodad",
    "addr add 198.51.100.1/32 dev lo",
    "addr add 2001:db8:51::1/128 dev lo nodad",
    "link set cni0 up",
    "link set up0 up",
    "route add 10.244.2.0/24 via 192.0.2.2",
    "route add fd00:244:2::/64 via 2001:db8::2",
)
POD_SETUP = (
    "addr add 10.244.1.5/24 dev eth0",
    "addr add fd00:244:1::5/64 dev eth0 nodad",
    "link set eth0 up",
    "route add default via 10.244.1.1",
    "route add ::/0 via fd00:244:1::1",
)
OUTSIDE_SETUP = (
    "addr add 192.0.2.2/24 dev eth0",
    "addr add 2001:db8::2/64 dev eth0 nodad",
    "addr add 10.244.2.5/32 dev lo",
    "addr add fd00:244:2::5/128 dev lo nodad",
    "link set eth0 up",
    "route add default via 192.0.2.1",
    "route add ::/0 via 2001:db8::1",
)
ADDRESSES: dict[Family, dict[str, str]] = {
    4: {
        "pod": "10.244.1.5",
        "node": "192.0.2.1",
        "other": "198.51.100.1",
        "outside": "192.0.2.2",
        "peer": "10.244.2.5",
    },
    6: {
        "pod": "fd00:244:1::5",
        "node": "2001:db8::1",
        "other": "2001:db8:51::1",
        "outside": "2001:db8::2",
        "peer": "fd00:244:2::5",
    },
}


@pytest.fixture
def lab(netns: Callable[[], Netns], backend: Backend) -> Lab:
    """The three namespaces, without any rule."""
    return Lab(netns, backend)


def test_masquerade_seen_from_outside(lab: Lab) -> None:
    """The node's address to the world, everyone's own inside the network and towards the pods of this node."""
    ends = {"pod": lab.pod, "node": lab.node.ns, "other": lab.node.ns, "outside": lab.outside, "peer": lab.outside}

    def seen(source: str, target: str) -> dict[Family, str]:
        return {
            family: lab.seen((ends[source], at[source]), (ends[target], at[target])) for family, at in ADDRESSES.items()
        }

    def own(name: str) -> dict[Family, str]:
        return {family: at[name] for family, at in ADDRESSES.items()}

    assert seen("pod", "outside") == own("pod")
    lab.node.settle()
    assert seen("pod", "outside") == own("node")
    assert seen("pod", "peer") == own("pod")
    assert seen("peer", "pod") == own("peer")
    assert seen("outside", "pod") == own("outside")
    assert seen("other", "peer") == own("node")  # the rule that flannel's nftables never reach
    assert seen("other", "outside") == own("other")
    for kind in ("ip", "ip6"):
        script = f"add table {kind} t\nadd chain {kind} t c {{ type filter hook prerouting priority mangle; }}\n"
        rule = f"add rule {kind} t c meta mark set 0x4000\n"
        shell.run(*shell.exec_in(lab.node.ns.name, "nft", "-f", "-"), stdin=script + rule)
    assert seen("pod", "outside") == own("pod")  # kube-proxy masquerades what it has marked


@pytest.mark.parametrize("backend", ["nf_tables", "legacy"], indirect=True)
def test_pods_are_forwarded_whatever_the_policy_is(lab: Lab) -> None:
    """With FORWARD's policy DROP nothing passes; with the rules all to and from the network does."""
    for tables in ("iptables", "ip6tables"):
        lab.node.ns.run(tables, "-P", "FORWARD", "DROP")
    for at in ADDRESSES.values():
        ping = shell.exec_in(lab.pod.name, "ping", "-c1", "-W0.5", "-n", at["outside"])
        assert shell.attempt(ping).returncode == 1
    lab.node.settle(replace(WANT, masquerade=False))
    for at in ADDRESSES.values():
        for target in ("outside", "peer"):
            lab.pod.run("ping", "-c1", "-W10", "-n", at[target])
