"""Our rules go to the backend of iptables that has the host's rules, even if the path's `iptables` writes to the other.

A container's `iptables` is its image's. On nodes with legacy rules the ACCEPTs were in nf_tables, and a policy of DROP
in the legacy FORWARD chain dropped all packets of pods.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.netns.firewall import WANT
from tests.netns.namespace import Netns
from vxland.firewall.backend import BACKENDS, Backend
from vxland.firewall.programs import FirewallPrograms
from vxland.firewall.sync import CHOOSE_EVERY, FirewallSync

pytestmark = pytest.mark.netns

PROGRAMS = ("iptables", "ip6tables")


class Host:
    """A namespace in which other programs have rules in one backend or both."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns

    def run(self, backend: Backend, command: str, programs: tuple[str, ...] = PROGRAMS) -> None:
        """Change the rules of a backend, in both families."""
        for program in programs:
            self.ns.run(f"{program}-{backend}", *command.split())

    def saved(self, backend: Backend) -> str:
        """List all rules of a backend."""
        return "".join(self.ns.run(f"{program}-{backend}-save") for program in PROGRAMS)

    def chosen(self) -> Backend | None:
        """Return the backend that has our rules, the same in both families."""
        found = [backend for backend in BACKENDS if "FLANNEL-" in self.saved(backend)]
        for backend in found:
            for chain in ("FLANNEL-FWD", "FLANNEL-POSTRTG"):
                assert self.saved(backend).count(f":{chain} ") == 2
        assert len(found) < 2, found
        return found[0] if found else None

    def settle(self, checks: int = 1, between: Callable[[], None] | None = None) -> str:
        """Check so many times, with `between` after the first; return the backend that the node reports."""

        async def main() -> str:
            sync = FirewallSync(FirewallPrograms(), 5)
            sync.set_want(WANT)
            assert await sync.settle()
            if between is not None:
                between()
            for _ in range(checks - 1):
                assert await sync.settle()
            return sync.backend

        return self.ns.run_async(main)


@pytest.fixture
def host(netns: Callable[[], Netns]) -> Host:
    """A host without any rule."""
    return Host(netns())


@pytest.mark.parametrize("backend", ["nf_tables", "legacy"], indirect=True)
@pytest.mark.parametrize("hosts", BACKENDS)
@pytest.mark.usefixtures("backend")
def test_the_hosts_backend_is_chosen(host: Host, hosts: Backend) -> None:
    """A policy of DROP alone shows where the host's rules are; neither the image's nor the other backend gets any."""
    host.run(hosts, "-P FORWARD DROP", ("iptables",))
    assert host.settle() == hosts
    assert host.chosen() == hosts


@pytest.mark.parametrize("backend", ["nf_tables", "legacy"], indirect=True)
def test_without_rules_it_is_the_paths(host: Host, backend: str) -> None:
    """The check loads no table that is not in use."""
    assert host.saved("nft") + host.ns.run("nft", "list", "ruleset") == ""
    assert host.settle() == ("legacy" if backend == "legacy" else "nft")
    assert host.chosen() == ("legacy" if backend == "legacy" else "nft")
    if backend == "legacy":
        assert host.ns.run("nft", "list", "ruleset") == ""


@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("hosts", BACKENDS)
def test_kubelets_chain_decides(host: Host, hosts: Backend, chain: str) -> None:
    """Docker may have left more rules in the other backend."""
    other: Backend = "nft" if hosts == "legacy" else "legacy"
    for number in range(5):
        host.run(other, f"-A INPUT -p tcp --dport {9000 + number} -j ACCEPT")
    host.run(hosts, f"-t mangle -N {chain}")
    assert host.settle() == hosts
    assert host.chosen() == hosts


@pytest.mark.parametrize("hosts", BACKENDS)
def test_the_choice_follows_the_host(host: Host, hosts: Backend) -> None:
    """Kubelet starts later than vxland and writes to the other backend: all our rules move there."""
    other: Backend = "nft" if hosts == "legacy" else "legacy"
    host.run(other, "-A INPUT -i lo -j ACCEPT")
    assert host.settle() == other
    assert host.settle(CHOOSE_EVERY + 1, lambda: host.run(hosts, "-t mangle -N KUBE-KUBELET-CANARY")) == hosts
    assert host.chosen() == hosts


@pytest.mark.parametrize("hosts", BACKENDS)
def test_the_removal_covers_both(host: Host, hosts: Backend) -> None:
    """Rules of an earlier run in the other backend are removed too."""
    other: Backend = "nft" if hosts == "legacy" else "legacy"
    host.run(other, "-A INPUT -i lo -j ACCEPT")
    host.settle()
    host.run(hosts, "-t mangle -N KUBE-KUBELET-CANARY")
    assert host.chosen() == other
    assert host.ns.run_async(lambda: FirewallSync(FirewallPrograms(), 5).remove())
    assert host.chosen() is None
