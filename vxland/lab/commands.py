"""`vxland demo | bench`: the commands that build separate namespaces. Both raise VxlandError."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import click

from vxland.model.errors import StartError

BENCH_SUBJECTS = ("kernel", "vxland", "busy-poll", "kernel-no-tnl", "interpreted", "plain", "ovs")  # by default

_EXTRA = ("jinja2", "matplotlib")
"""Packages that `vxland[lab]` adds to those of a node."""


def _require_extra(what: str) -> None:
    """Raise StartError with the command that installs the extra, if one of its packages is missing."""
    missing = [package for package in _EXTRA if find_spec(package) is None]
    if missing:
        cause = f"{what} needs the extra `lab` (missing: {', '.join(missing)})"
        raise StartError(cause, "pip install 'vxland[lab]'")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: passed, checks, captures, iperf.")
@click.option(
    "--peer",
    type=click.Choice(["vxland", "kernel"]),
    default="vxland",
    show_default=True,
    help="The data path of node 2: vxland as well, or the kernel's own vxlan device.",
)
@click.option(
    "--registry",
    type=click.Choice(["static", "etcd"]),
    default="static",
    show_default=True,
    help="How the nodes find each other: through their files, or through a real etcd with `vxland flanneld`.",
)
@click.option(
    "--cni", is_flag=True, help="Attach the pods with the CNI plugins bridge, host-local and portmap, from subnet.env."
)
@click.option(
    "--report",
    "page_at",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Also write the results as one page: topology, the packet at each hop byte by byte, checks.",
)
@click.option("--keep", is_flag=True, help="Leave the nodes running, and print how to enter and how to remove them.")
def demo(
    as_json: bool,
    peer: Literal["vxland", "kernel"],
    registry: Literal["static", "etcd"],
    cni: bool,
    page_at: Path | None,
    keep: bool,
) -> None:
    """Show flannel's network model at work, checked hop by hop. Two nodes and four pods in separate namespaces.

    Needs root, iperf3, iputils' ping and the extra `lab`. --registry etcd also needs etcd, --cni needs the plugins, and
    both need iptables (Debian: etcd-server, containernetworking-plugins, iptables). Exit 0 only if every check passed.
    Nothing outside the namespaces is changed, and the demo removes them at the end.
    """
    _require_extra("the demo")
    from vxland.lab.demo.runner import DemoPlan, run  # noqa: PLC0415  (loads rich and more, which --help does not need)

    plan = DemoPlan(("vxland", peer), registry, cni, keep)
    try:
        code = run(plan, json_wanted=as_json, page_at=page_at)
    except PermissionError as exc:  # root of a user namespace may lack some of these permissions
        remedy = "run it as root of the machine, or in a user namespace with mount and network namespaces of its own"
        raise StartError(f"the demo lacks a permission: {exc}", remedy) from exc
    sys.exit(code)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="The number of rounds.")
@click.option(
    "--seconds",
    type=click.IntRange(1, 60),
    default=3,
    show_default=True,
    help="The duration of each measurement.",
)
@click.option(
    "--mtu",
    "mtus",
    type=click.IntRange(1280, 65_535),
    multiple=True,
    default=(1500, 9000),
    show_default=True,
    help="An underlay MTU to measure at; may be repeated. From the second on only TCP is measured.",
)
@click.option(
    "--subject",
    "subjects",
    type=click.Choice([*BENCH_SUBJECTS, "two-workers", "to-kernel", "from-kernel"]),
    multiple=True,
    default=BENCH_SUBJECTS,
    show_default=True,
    help="The subject to measure; may be repeated. Ratios need the kernel.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("vxland-bench"),
    show_default=True,
    help="The folder for bench.html (the report as a page), bench.json, bench.md and the plots.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the tables.")
@click.option(
    "--soak",
    type=click.IntRange(min=30),
    metavar="SECONDS",
    help="Run only the soak test: mixed traffic in both directions for this time. Exit 0 only if memory and open files"
    " stay flat.",
)
@click.option(
    "--leases",
    type=click.IntRange(1, 1 << 14),
    metavar="NUMBER",
    help="Run only the scale test: one node in an etcd cluster of this size; how fast it follows changes, its cost.",
)
@click.option(
    "--to",
    "addresses",
    type=IPv4Address,
    multiple=True,
    metavar="ADDRESS",
    help="Run only iperf3, from here to a pod that runs `iperf3 -s`; may be repeated. Needs no root.",
)
@click.option(
    "--flood",
    type=click.IntRange(1, 8),
    is_flag=False,
    flag_value=1,
    metavar="[SENDERS]",
    help="Run only the flood test: one TCP stream while unknown senders flood the port, once for each filter.",
)
@click.option(
    "--quick", is_flag=True, help="One round of one second at the first MTU: a test that it works, not a measurement."
)
def bench(
    rounds: int,
    seconds: int,
    mtus: tuple[int, ...],
    subjects: tuple[str, ...],
    output: Path,
    as_json: bool,
    soak: int | None,
    leases: int | None,
    addresses: tuple[IPv4Address, ...],
    flood: int | None,
    quick: bool,
) -> None:
    """Compare vxland with the kernel's own vxlan device. And with plain veth and Open vSwitch in userspace.

    Two nodes in separate namespaces, joined by a veth pair. Every subject is measured in turn, round after round, so
    that ratios are valid even if absolute numbers are not. Measures TCP with 1 and 8 streams and its CPU time, UDP
    floods, the highest rate without loss, request/response latency, and memory. Takes about 25 minutes by default; the
    machine should be idle.

    \b
    kernel         the kernel's vxlan device as flannel creates it; the baseline of all ratios
    vxland         the compiled gear on both nodes, without tuning
    busy-poll      the same, polling for frames for 50 us before it sleeps
    two-workers    the same with two workers, for any number of CPUs
    kernel-no-tnl  kernel, above a device that cannot segment tunnels
    interpreted    vxland without its compiled modules
    plain          the veth pair itself
    ovs            Open vSwitch's userspace datapath
    to-kernel, from-kernel   vxland on one node, the kernel on the other

    Needs root, iperf3, iputils' ping, ethtool and the extra `lab`; etcd and iptables for --leases, nftables
    for --flood. Exit 0 if every installed subject was measured. Nothing outside the namespaces is changed, and the
    benchmark removes them at the end.
    """  # noqa: D301  (click keeps the lines after its \b)
    # Imported here, each where it is used: --help and a run without the extra load none of it.
    if soak:
        from vxland.lab.bench.soak import run as run_soak  # noqa: PLC0415  (as above)

        sys.exit(run_soak(soak, json_wanted=as_json))
    if addresses:
        from vxland.lab.bench.remote import run as run_remote  # noqa: PLC0415  (as above)

        sys.exit(run_remote(addresses, seconds, json_wanted=as_json))
    if leases:
        from vxland.lab.bench.cluster import run as run_cluster  # noqa: PLC0415  (as above)

        sys.exit(run_cluster(leases, quick=quick, json_wanted=as_json))
    if flood:
        from vxland.lab.bench.flood import run as run_flood  # noqa: PLC0415  (as above)

        sys.exit(run_flood(flood, 1 if quick else rounds, 1 if quick else seconds, json_wanted=as_json))
    _require_extra("the benchmark")
    from vxland.lab.bench.rounds import Options  # noqa: PLC0415  (as above)
    from vxland.lab.bench.runner import run  # noqa: PLC0415  (as above)
    from vxland.lab.bench.trial import FULL, QUICK  # noqa: PLC0415  (as above)

    plan = QUICK if quick else replace(FULL, seconds=seconds)
    options = Options(1 if quick else rounds, mtus[:1] if quick else mtus, subjects, plan)
    sys.exit(run(options, output, json_wanted=as_json))
