"""The whole demo: build, start, gather evidence, judge, and always remove."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from rich.console import Console

from vxland.lab import cni, etcd, shell, traffic, vtep
from vxland.lab.demo import evidence
from vxland.lab.demo.checks import Check, judge, removed
from vxland.lab.demo.evidence import DemoEvidence
from vxland.lab.demo.page import DemoPage
from vxland.lab.demo.report import Report, as_json
from vxland.lab.etcd import EtcdServer
from vxland.lab.namespaces import Lab, remains, sweep
from vxland.lab.page import document
from vxland.lab.signals import ignore_signals, interruptible
from vxland.lab.topology import NETWORK, NODES, POD_A, POD_C, Kind, LabRegistry
from vxland.model.errors import VxlandError

T = TypeVar("T")
StepOutput: TypeAlias = Report | DemoPage  # they show each step when it is done

LOG_WIDTH = 110

_FIREWALL = {"iptables-restore": "iptables"}


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The options of a walk-through: data path of each node, registry, CNI plugins, and whether it stays at the end."""

    kinds: tuple[Kind, Kind]
    registry: LabRegistry = "static"
    cni: bool = False
    keep: bool = False

    @property
    def packages(self) -> dict[str, str]:
        """Programs that this plan needs in addition, with their packages."""
        stored, plugged = self.registry == "etcd", self.cni
        return {
            **(etcd.PACKAGES if stored else {}),
            **(cni.PACKAGES if plugged else {}),
            **(_FIREWALL if stored or plugged else {}),  # vxland then masquerades, as flanneld --ip-masq does
        }


def run(plan: DemoPlan, *, json_wanted: bool, page_at: Path | None = None) -> int:
    """Run the walk-through; 0 if every check passed, else 1. StartError if it cannot start.

    `page_at`: the file for the page, written however the run ends; ConfigError when that is seen to be impossible.
    """
    if page_at:
        document.refuse_unwritable("--report", page_at)
    shell.require(plan.kinds, more=plan.packages)
    lab = Lab()
    page = DemoPage(lab, plan.kinds, plan.registry)
    verdicts: list[Check] = []
    failure = "a defect in the demo itself"
    try:
        verdicts = _run(plan, Report(_console(json_wanted), lab), page, json_wanted=json_wanted)
        failure = "" if verdicts else "interrupted"
    except VxlandError as exc:
        failure = str(exc)
        raise
    finally:
        if page_at:
            document.write(page_at, page.render(verdicts, failure))
    return 0 if verdicts and all(check.passed for check in verdicts) else 1


def _run(plan: DemoPlan, report: Report, page: DemoPage, *, json_wanted: bool) -> list[Check]:
    """Return the checks, printed like every step before them; none if the run was interrupted."""
    notes = Console(stderr=True)
    lab = report.lab
    found: DemoEvidence | None = None
    script: Path | None = None
    codes: dict[str, int] = {}
    with interruptible():
        try:
            found = _walk_through(plan, lab, (report, page), notes)
            script = lab.keep() if plan.keep else None
        except KeyboardInterrupt:
            pass  # reported below, after the removal
        finally:
            with suppress(KeyboardInterrupt):
                ignore_signals()
            if script is None:
                codes = lab.remove()
    if found is None:
        notes.print("interrupted; all that the demo had made is removed again")
        return []
    verdicts = judge(found)
    if script is None:
        ended = {node.title: codes[node.namespace] for node in NODES if node.namespace in codes}
        verdicts += removed(ended, remains(lab.pid))
    report.checks(verdicts)
    if script is not None:
        report.kept(script)
    if json_wanted:
        print(json.dumps(as_json(found, verdicts), indent=2))
    return verdicts


def _walk_through(plan: DemoPlan, lab: Lab, outputs: Sequence[StepOutput], notes: Console) -> DemoEvidence:
    """Build the lab and run the walk-through; each output shows each step when it is done."""

    def step(doing: str, job: Callable[[], T]) -> T:
        if not notes.is_terminal:
            return job()
        with notes.status(doing):
            return job()

    def show(what: Callable[[StepOutput], None]) -> None:
        for output in outputs:
            what(output)

    for pid in step("looking for leftovers", sweep):
        notes.print(f"removed what an earlier demo, process {pid}, had left behind")
    step("building two nodes and four pods", lambda: lab.build(attach=not plan.cni))
    leases = step("starting the VTEPs", lambda: _start(lab, plan))
    network = step("attaching the pods", lambda: cni.attach(lab, plan.kinds)) if plan.cni else None
    show(lambda output: output.topology(plan.kinds))
    if leases is not None:
        show(lambda output: output.leases(leases))
    if network is not None:
        show(lambda output: output.network(network))
    devices = evidence.inspect_devices(lab)
    show(lambda output: output.devices(devices))
    before = evidence.count(lab)
    same = step(f"{POD_A.title} pings its neighbour", lambda: evidence.ping_same_node(lab))
    show(lambda output: output.same_node(same))
    across = step(f"{POD_A.title} pings {POD_C.title} on the other node", lambda: evidence.ping_across(lab))
    show(lambda output: output.across(across))
    full = step("pinging with full-size packets", lambda: evidence.ping_full_size(lab))
    seconds = 2 * traffic.IPERF_S
    left, right = (node.pods[0] for node in lab.nodes)
    there, back = step(f"TCP for {seconds} s, both directions", lambda: traffic.iperf(lab, left, right))
    show(lambda output: output.throughput(full, there, back))
    after, daemons = evidence.count(lab), evidence.inspect_daemons(lab)
    detached = step("detaching the pods", lambda: cni.detach(lab)) if plan.cni and not plan.keep else {}
    return DemoEvidence(
        kinds=plan.kinds,
        devices=devices,
        same=same,
        across=across,
        full=full,
        there=there,
        back=back,
        before=before,
        after=after,
        daemons=daemons,
        nodes=lab.nodes,
        leases=leases,
        network=network,
        detached=detached,
    )


def _start(lab: Lab, plan: DemoPlan) -> tuple[etcd.StoredLease, ...] | None:
    """Start the store, if the plan has one, and both VTEPs; wait for both. Return the leases in the store."""
    if plan.registry == "static":
        _start_vteps(lab, plan, "")
        return None
    with closing(EtcdServer(lab, NODES[0])) as store:
        # SubnetMin: etcd nodes get the first subnet only with it; Kubernetes assigned it to the walk-through's node.
        store.put(etcd.CONFIG_KEY, etcd.network_config(NETWORK, SubnetMin=str(NETWORK[0])))
        for node, kind in zip(NODES, plan.kinds, strict=True):
            key = etcd.lease_key(node.subnet)
            if kind == "kernel":  # no flanneld runs there to keep the lease
                store.put(key, etcd.lease_value(node.underlay, node.vtep_mac), store.grant(etcd.LEASE_S))
            else:
                store.put(key, etcd.reservation(node.underlay, node.vtep_mac))
        _start_vteps(lab, plan, store.url)
        return tuple(store.list(f"{etcd.PREFIX}/"))


def _start_vteps(lab: Lab, plan: DemoPlan, store: str) -> None:
    for node, kind in zip(NODES, plan.kinds, strict=True):
        vtep.set_up(lab, node, kind, etcd=store, masquerade=plan.cni)
    for node in NODES:
        vtep.wait_ready(lab, node)


def _console(json_wanted: bool) -> Console:
    """Return the console for the steps: quiet with JSON; wider than rich's 80 columns for a log file."""
    console = Console(quiet=json_wanted)
    return console if console.is_terminal else Console(quiet=json_wanted, width=LOG_WIDTH)
