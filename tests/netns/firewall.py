"""A namespace in which a test maintains firewall rules, and damage that other programs may do to them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal, TypeVar

from tests.netns.namespace import Netns
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.rules import Family, Flavour, RulesWant
from vxland.firewall.sync import FirewallSync

T = TypeVar("T")
Backend = Literal["nf_tables", "legacy", "nft"]

WANT = RulesWant(
    networks=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/32")),
    subnets=(ip_network("10.244.1.0/24"), ip_network("fd00:244:1::/64")),
    masquerade=True,
    forward=True,
)


@dataclass(frozen=True)
class Node:
    """A namespace whose iptables writes to one backend."""

    ns: Netns
    backend: Backend

    @property
    def flavour(self) -> Flavour:
        """The flavour that tests keep in it."""
        return "nftables" if self.backend == "nft" else "iptables"

    def run_sync(self, job: Callable[[FirewallSync], Awaitable[T]], want: RulesWant | None = WANT) -> T:
        """Return the result of `job` with a new FirewallSync inside, which wants `want`."""

        async def main() -> T:
            sync = FirewallSync(FirewallPrograms(), 5)
            sync.set_want(want, self.flavour)
            return await job(sync)

        return self.ns.run_async(main)

    def settle(self, want: RulesWant | None = WANT) -> None:
        """Start a daemon that sets its rules and ends."""
        assert self.run_sync(FirewallSync.settle, want)

    def rules(self, *options: str) -> str:
        """List everything in iptables and nft, without comment lines; `-c` shows counters and handles."""
        shown = self.ns.run("iptables-save", *options) + self.ns.run("ip6tables-save", *options)
        if options or self.backend == "nft":
            shown += self.ns.run("nft", "-a" if options else "-s", "list", "ruleset")
        return re.sub("^#.*\n", "", shown, flags=re.MULTILINE)

    def ours(self) -> list[str]:
        """List the rules of flannel's chains and tables, and the jumps to them."""
        if self.backend == "nft":
            found = []
            for family in ("ip", "ip6"):
                table = f"flannel-ipv{'4' if family == 'ip' else '6'}"
                if table in self.ns.run("nft", "list", "tables", family):
                    found += self.ns.run("nft", "list", "table", family, table).splitlines()
            return found
        return [line for line in self.rules().splitlines() if "FLANNEL" in line]

    def spoil(self, family: Family, what: str) -> None:
        """Damage the rules as an administrator or another daemon may."""
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
    "a foreign rule inserted": {
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
