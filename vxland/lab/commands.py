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

BENCH_WIRES = ("veth", "wire")
BENCH_SUBJECTS = ("kernel", "vxland", "fast-path-off")  # by default
MORE_SUBJECTS = ("to-kernel", "from-kernel", "busy-poll", "two-workers", "interpreted", "plain", "ovs")
BENCH_MEASURES = ("tcp1", "tcp8", "tcp64", "both", "ping", "rr", "connect", "flood", "restart", "scale")  # by default
MORE_MEASURES = ("lossless", "quota")

MAX_LEASES = 32_000
"""A node keeps 32,768 entries of a store: docs/limits.md."""


def _sizes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return the numbers of leases: none for the default ones; None without the option."""
    if not value:
        return None if value is None else ()
    words = value.split(",")
    sizes = tuple(int(word) for word in words if word.isascii() and word.isdecimal())
    if len(sizes) < len(words) or not all(0 < size <= MAX_LEASES for size in sizes):
        raise click.BadParameter(f"{value!r}: give numbers from 1 to {MAX_LEASES}, such as 1000,5000")
    return sizes


_PACKAGES = {"lab": "jinja2", "plots": "matplotlib"}
"""The package that each extra adds to those of a node."""


def _require_extras(what: str, *extras: str) -> None:
    """Raise StartError with the command that installs the extras, if the package of one is missing."""
    missing = [_PACKAGES[extra] for extra in extras if find_spec(_PACKAGES[extra]) is None]
    if missing:
        named = " and ".join(f"`{extra}`" for extra in extras)
        cause = f"{what} needs the extra{'s' * (len(extras) > 1)} {named} (missing: {', '.join(missing)})"
        raise StartError(cause, f"pip install 'vxland[{','.join(extras)}]'")


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
    _require_extras("the demo", "lab")
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
    "--wire",
    "wires",
    type=click.Choice(BENCH_WIRES),
    multiple=True,
    default=BENCH_WIRES,
    show_default=True,
    help="The underlay to measure over; may be repeated.",
)
@click.option(
    "--subject",
    "subjects",
    type=click.Choice([*BENCH_SUBJECTS, *MORE_SUBJECTS]),
    multiple=True,
    default=BENCH_SUBJECTS,
    show_default=True,
    metavar="NAME",
    help="A subject of the list above; may be repeated. Ratios need the kernel.",
)
@click.option(
    "--measure",
    "measures",
    type=click.Choice([*BENCH_MEASURES, *MORE_MEASURES]),
    multiple=True,
    default=BENCH_MEASURES,
    show_default=True,
    metavar="NAME",
    help="A measure of the list above; may be repeated.",
)
@click.option(
    "--mtu", type=click.IntRange(1280, 65_535), default=1500, show_default=True, help="The underlay MTU to measure at."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("vxland-bench"),
    show_default=True,
    help="The folder for bench.html (the report as a page), bench.json, bench.md and the plots; with --leases for"
    " leases-STORE.json, .md and, with several sizes, .png.",
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
    "sizes",
    callback=_sizes,
    is_flag=False,
    flag_value="",
    metavar="[NUMBER,...]",
    help="Run only the scale test: one node in clusters of these sizes; how fast it follows changes, its cost. Without"
    " a number: 1000,5000,20000.",
)
@click.option(
    "--store",
    type=click.Choice(["etcd", "kube"]),
    default="etcd",
    show_default=True,
    help="The store of --leases: etcd, or kube-apiserver, then with 1,000 Nodes unless numbers are given.",
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
    "--quick", is_flag=True, help="One round of one second per measurement: a test that it works, no good for ratios."
)
def bench(
    rounds: int,
    seconds: int,
    wires: tuple[str, ...],
    subjects: tuple[str, ...],
    measures: tuple[str, ...],
    mtu: int,
    output: Path,
    as_json: bool,
    soak: int | None,
    sizes: tuple[int, ...] | None,
    store: Literal["etcd", "kube"],
    addresses: tuple[IPv4Address, ...],
    flood: int | None,
    quick: bool,
) -> None:
    """Compare vxland with the kernel's own vxlan device, pod to pod, by ratios.

    Two nodes in separate namespaces, joined by a veth pair, each with a bridge and pods in namespaces of their own. In
    every round each subject is set up and measured in turn on each wire, so that ratios are valid even if absolute
    numbers are not. By default that takes about 25 minutes; the machine should be idle. One measure in a minute:

    \b
        vxland bench --quick --wire veth --measure connect

    Wires. Subjects compare only on the same one:

    \b
    veth      the veth pair as it is; superframes and trains cross whole, as above a card with tunnel segmentation
    wire      the pair without segmentation: only packets of the MTU cross

    Subjects; the last seven only when asked for:

    \b
    kernel         the kernel's vxlan device as flannel creates it; the baseline of all ratios
    vxland         vxland on both nodes with `datapath.fast_path: auto`; the report says whether it was on
    fast-path-off  vxland with `datapath.fast_path: off`: the daemon carries every frame
    to-kernel, from-kernel   vxland on one node, the kernel on the other
    busy-poll      fast-path-off, polling for frames for 50 us before it sleeps
    two-workers    fast-path-off with two workers
    interpreted    fast-path-off without its compiled modules
    plain          routes over the veth pair, no overlay
    ovs            Open vSwitch's userspace datapath

    Measures; the last two only when asked for:

    \b
    tcp1, tcp8, tcp64   iperf3 with 1, 8 and 64 streams, its CPU time, retransmissions
    both       one stream in each direction at once
    ping       average round trip of 50 pings a second
    rr         64 bytes over TCP and 64 back: p50, p99
    connect    connect, one byte each way, close, one after the other: per second, p50, p99
    flood      64-byte UDP packets as fast as one thread sends: received per second
    restart    kill -9 of node 1's vxland, start after a second: pings lost, seconds in which TCP stalled
    scale      memory with 1,000 leases, lookups among 10,000; once, for vxland alone
    lossless   the highest rate of UDP packets with a loss below 0.5 %
    quota      one stream from and to node 1 whose vxland may use 0.1 CPU, beside two busy neighbours

    Needs root, iperf3, iputils' ping, ethtool and the extras `lab` and `plots`; etcd and iptables for --leases;
    kube-apiserver and etcd in the folder KUBEBUILDER_ASSETS, and openssl, for --leases --store kube; nftables for
    --flood. Exit 0 if every installed subject was measured. Nothing outside the namespaces is changed, but
    for control groups for `quota`. The benchmark removes all of it at the end, and after Ctrl-C.
    """  # noqa: D301  (click keeps the lines after its \b)
    # Imported here, each where it is used: --help and a run without the extra load none of it.
    if soak:
        from vxland.lab.bench.soak import run as run_soak  # noqa: PLC0415  (as above)

        sys.exit(run_soak(soak, json_wanted=as_json))
    if addresses:
        from vxland.lab.bench.remote import run as run_remote  # noqa: PLC0415  (as above)

        sys.exit(run_remote(addresses, seconds, json_wanted=as_json))
    if sizes is not None:
        from vxland.lab.bench.cluster import run as run_cluster  # noqa: PLC0415  (as above)

        sys.exit(run_cluster(sizes, store, output, quick=quick, json_wanted=as_json))
    if flood:
        from vxland.lab.bench.flood import run as run_flood  # noqa: PLC0415  (as above)

        sys.exit(run_flood(flood, 1 if quick else rounds, 1 if quick else seconds, json_wanted=as_json))
    _require_extras("the benchmark", "lab", "plots")
    from vxland.lab.bench.rounds import Options  # noqa: PLC0415  (as above)
    from vxland.lab.bench.runner import run  # noqa: PLC0415  (as above)
    from vxland.lab.bench.trial import FULL, QUICK  # noqa: PLC0415  (as above)

    plan = QUICK if quick else replace(FULL, seconds=seconds)
    options = Options(1 if quick else rounds, wires, mtu, subjects, measures, plan)
    sys.exit(run(options, output, json_wanted=as_json))
