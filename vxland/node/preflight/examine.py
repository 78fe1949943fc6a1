"""The whole preflight of `vxland check --here`: every rule, on this machine as it is. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from vxland.config import Settings
from vxland.firewall.forward_check import ForwardCheck
from vxland.firewall.programs import FirewallPrograms
from vxland.model.errors import ConfigError, InvalidConfigError, VxlandError
from vxland.model.finding import Finding
from vxland.netlink.client import Netlink
from vxland.node.confinement import check_confinement
from vxland.node.host_setup import bridge_netfilter_remedy, rules_flavour
from vxland.node.plane_opening import choose_planes
from vxland.node.preflight.host import host_findings, mac_policies
from vxland.node.preflight.start import obstacles, privileges
from vxland.node.preflight.target import Target
from vxland.node.registry_factory import make_registry
from vxland.node.surroundings import why_not_here
from vxland.node.underlays import find_underlays
from vxland.reconcile import subnet_env
from vxland.registry.net_conf import NetConf

_STORE_S: Final = 3.0
"""Time for a store to name the cluster's network."""

_JIT: Final = Path("/proc/sys/net/core/bpf_jit_enable")


class Preflight:
    """One examination: the problems of the settings and the findings about the machine that it has found so far."""

    def __init__(self, settings: Settings, subnet_file: Path) -> None:
        self.problems: list[ConfigError] = []
        self.findings: list[Finding] = []
        self._settings = settings
        self._subnet_file = subnet_file

    async def examine(self) -> None:
        """Apply every rule. What one cannot find out is a finding too."""
        try:
            check_confinement(self._settings)
        except ConfigError as exc:
            self.problems.append(exc)
        self.findings += privileges(self._settings.device)
        try:
            conf = await self._net_conf()
            targets = await self._targets(conf)
        except ConfigError as exc:
            self.problems.append(exc)
            return
        except InvalidConfigError as exc:
            self.problems += exc.problems
            return
        except VxlandError as exc:
            self._unknown("devices", exc)
            return
        flavour = rules_flavour(self._settings, conf)
        with closing(Netlink()) as netlink:
            try:
                cluster = conf is not None
                self.findings += [each async for each in obstacles(netlink, targets, self._settings, cluster=cluster)]
                accepted = self._settings.firewall.forward and flavour == "iptables"  # nftables cannot overrule others
                self.findings += [each async for each in _forwarding(netlink, targets, accepted=accepted)]
                self.findings += await host_findings(netlink, targets, self._settings)
            except (VxlandError, OSError) as exc:
                self._unknown("kernel", exc)
        self.findings += mac_policies(targets)
        if flavour == "iptables" and (remedy := bridge_netfilter_remedy()):
            found = "iptables does not see packets that a bridge forwards"
            effect = "a pod does not reach a Service whose endpoint is a pod of the same node"
            self.findings.append(Finding("warning", "br_netfilter", found, effect, remedy))
        for target in targets:
            self.findings += _fast_path(target)

    async def _net_conf(self) -> NetConf | None:
        """Return the cluster's network; None for a static node, and for a store that does not answer."""
        registry = make_registry(self._settings, self._subnet_file, cached=False)
        try:
            async with asyncio.timeout(_STORE_S):
                return await registry.net_conf()
        except TimeoutError:
            kind, why = self._settings.registry.kind, registry.health.error or "it does not answer"
            found = f"{kind} does not say which network this is: {why}"
            effect = "the node starts with the leases that it has cached, or waits; this check assumes VNI 1, port 8472"
            self.findings.append(Finding("warning", "registry", found, effect, f"see the section {kind} of the file"))
            return None
        finally:
            await registry.close()

    async def _targets(self, conf: NetConf | None) -> list[Target]:
        underlays = await find_underlays(self._settings, conf)
        before = subnet_env.read(self._subnet_file).values()  # of a cluster, in which this node has run
        found = []
        for settings, underlay in choose_planes(self._settings, conf, underlays):
            versions = {network.version for network in settings.networks}
            own = settings.own_subnets or tuple(subnet for subnet in before if subnet.version in versions)
            mtu = settings.overlay_mtu(underlay.mtu, underlay.address.version)
            found.append(Target(settings, underlay, mtu, own, tuple({lease.vtep.address for lease in settings.peers})))
        return found

    def _unknown(self, subject: str, exc: Exception) -> None:
        effect = "what depends on it was not checked"
        self.findings.append(Finding("warning", subject, str(exc), effect, "run this as root, on the node itself"))


async def _forwarding(netlink: Netlink, targets: Sequence[Target], *, accepted: bool) -> AsyncIterator[Finding]:
    unknown: dict[str, None] = {}
    for target in targets:
        check = ForwardCheck(target.device, target.settings.networks, FirewallPrograms(), netlink.interface_to)
        check.own = target.own or target.settings.networks
        problems, why = await check.find(accepted=accepted)
        for problem in problems:
            yield Finding("error", "forwarding", problem.cause, "pods do not reach other nodes", problem.remedy)
        unknown |= dict.fromkeys([why] if why else [])
    for why in unknown:
        effect = "a rule that drops packets of pods was not looked for"
        yield Finding("warning", "forwarding", why, effect, "run this as root, with nft installed")


def _fast_path(target: Target) -> Iterator[Finding]:
    if target.settings.datapath.fast_path == "off":
        return
    effect = "the daemon carries every frame, more slowly, and a restart interrupts traffic"
    if reason := why_not_here(target.settings, target.underlay):
        yield Finding("warning", "bpf", f"no fast path on {target.device}: {reason}", effect, "see docs/fast-path.md")
    elif _is_zero(_JIT):
        found = "net.core.bpf_jit_enable is 0: the kernel interprets programs"
        yield Finding("warning", "bpf", found, "the fast path is slower", "sysctl -w net.core.bpf_jit_enable=1")


def _is_zero(path: Path) -> bool:
    try:
        return path.read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False
