"""The demo from beginning to end: build, start, look, judge, and always remove."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from rich.console import Console

from vxland.lab import cni, etcd, shell, traffic, vtep
from vxland.lab import page as pages
from vxland.lab.demo import evidence
from vxland.lab.demo.checks import Check, judge, removed
from vxland.lab.demo.evidence import DemoEvidence
from vxland.lab.demo.page import DemoPage
from vxland.lab.demo.report import Report, as_json
from vxland.lab.etcd import EtcdServer
from vxland.lab.namespaces import Lab, remains, sweep
from vxland.lab.signals import deafen, stoppable
from vxland.lab.topology import NETWORK, NODES, POD_A, POD_C, Kind, LabRegistry
from vxland.model.errors import VxlandError

T = TypeVar("T")
Teller: TypeAlias = Report | DemoPage  # whoever is told the steps as they are done

LOG_WIDTH = 110

_FIREWALL = {"iptables-restore": "iptables"}


@dataclass(frozen=True, slots=True)
class Scene:
    """Which walk-through: what the nodes run, where they learn of each other, who attaches the pods, how it ends."""

    kinds: tuple[Kind, Kind]
    registry: LabRegistry = "static"
    cni: bool = False
    keep: bool = False

    @property
    def packages(self) -> dict[str, str]:
        """The programs it takes beyond those of every walk-through, and their packages."""
        stored, plugged = self.registry == "etcd", self.cni
        return {
            **(etcd.PACKAGES if stored else {}),
            **(cni.PACKAGES if plugged else {}),
            **(_FIREWALL if stored or plugged else {}),  # vxland masquerades then, as flanneld is told to
        }


def play(scene: Scene, *, json_wanted: bool, page_at: Path | None = None) -> int:
    """Play the walk-through; 0 when every check passed, else 1. StartError when it cannot begin.

    `page_at`: the file for the page, written however the run ends; ConfigError when that is seen to be impossible.
    """
    if page_at:
        pages.refuse_unwritable("--report", page_at)
    shell.require(scene.kinds, more=scene.packages)
    lab = Lab()
    page = DemoPage(lab, scene.kinds, scene.registry)
    verdicts: list[Check] = []
    trouble = "a defect in the demo itself"
    try:
        verdicts = _play(scene, Report(_console(json_wanted), lab), page, json_wanted=json_wanted)
        trouble = "" if verdicts else "interrupted"
    except VxlandError as exc:
        trouble = str(exc)
        raise
    finally:
        if page_at:
            pages.write(page_at, page.render(verdicts, trouble))
    return 0 if verdicts and all(check.passed for check in verdicts) else 1


def _play(scene: Scene, report: Report, page: DemoPage, *, json_wanted: bool) -> list[Check]:
    """The checks, printed like everything before them; none when it was interrupted."""
    notes = Console(stderr=True)
    lab = report.lab
    found: DemoEvidence | None = None
    script: Path | None = None
    codes: dict[str, int] = {}
    with stoppable():
        try:
            found = _tell(scene, lab, (report, page), notes)
            script = lab.keep() if scene.keep else None
        except KeyboardInterrupt:
            pass  # said below, when everything is removed
        finally:
            with suppress(KeyboardInterrupt):
                deafen()
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


def _tell(scene: Scene, lab: Lab, tellers: Sequence[Teller], notes: Console) -> DemoEvidence:
    """Build the lab and walk through it, telling each step when it is done."""

    def step(doing: str, job: Callable[[], T]) -> T:
        if not notes.is_terminal:
            return job()
        with notes.status(doing):
            return job()

    def tell(what: Callable[[Teller], None]) -> None:
        for teller in tellers:
            what(teller)

    for pid in step("looking for leftovers", sweep):
        notes.print(f"removed what an earlier demo, process {pid}, had left behind")
    step("building two nodes and four pods", lambda: lab.build(attach=not scene.cni))
    leases = step("starting the VTEPs", lambda: _start(lab, scene))
    network = step("attaching the pods", lambda: cni.attach(lab, scene.kinds)) if scene.cni else None
    tell(lambda teller: teller.topology(scene.kinds))
    if leases is not None:
        tell(lambda teller: teller.leases(leases))
    if network is not None:
        tell(lambda teller: teller.network(network))
    devices = evidence.look_at_devices(lab)
    tell(lambda teller: teller.devices(devices))
    before = evidence.count(lab)
    same = step(f"{POD_A.title} pings its neighbour", lambda: evidence.ping_same_node(lab))
    tell(lambda teller: teller.same_node(same))
    across = step(f"{POD_A.title} pings {POD_C.title} on the other node", lambda: evidence.ping_across(lab))
    tell(lambda teller: teller.across(across))
    full = step("pinging with full-size packets", lambda: evidence.ping_full_size(lab))
    seconds = 2 * traffic.IPERF_S
    left, right = (node.pods[0] for node in lab.nodes)
    there, back = step(f"TCP for {seconds} s, both directions", lambda: traffic.iperf(lab, left, right))
    tell(lambda teller: teller.throughput(full, there, back))
    after, daemons = evidence.count(lab), evidence.look_at_daemons(lab)
    detached = step("detaching the pods", lambda: cni.detach(lab)) if scene.cni and not scene.keep else {}
    return DemoEvidence(
        kinds=scene.kinds,
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


def _start(lab: Lab, scene: Scene) -> tuple[etcd.StoredLease, ...] | None:
    """The store, if one is wanted, and both VTEPs at once; then wait for both. The leases in the store."""
    if scene.registry == "static":
        _start_vteps(lab, scene, "")
        return None
    with closing(EtcdServer(lab, NODES[0])) as store:
        # SubnetMin: an etcd's nodes get the first subnet only if told so; Kubernetes gave it to the walk-through's.
        store.put(etcd.CONFIG_KEY, etcd.network_config(NETWORK, SubnetMin=str(NETWORK[0])))
        for node, kind in zip(NODES, scene.kinds, strict=True):
            key = etcd.lease_key(node.subnet)
            if kind == "kernel":  # no daemon there keeps the lease, as flanneld would
                store.put(key, etcd.lease_value(node.underlay, node.vtep_mac), store.grant(etcd.LEASE_S))
            else:
                store.put(key, etcd.reservation(node.underlay, node.vtep_mac))
        _start_vteps(lab, scene, store.url)
        return tuple(store.list(f"{etcd.PREFIX}/"))


def _start_vteps(lab: Lab, scene: Scene, store: str) -> None:
    for node, kind in zip(NODES, scene.kinds, strict=True):
        vtep.set_up(lab, node, kind, etcd=store, masquerade=scene.cni)
    for node in NODES:
        vtep.wait_ready(lab, node)


def _console(json_wanted: bool) -> Console:
    """Where the steps are shown: nowhere beside JSON; a log file gets wider lines than rich's 80."""
    console = Console(quiet=json_wanted)
    return console if console.is_terminal else Console(quiet=json_wanted, width=LOG_WIDTH)
