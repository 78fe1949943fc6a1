"""Packets of the flow that the kernel drops before and behind vxland, as `vxlandctl trace --live` shows them.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from vxland.lab import shell

from .asking import control
from .conftest import running
from .daemon import ROOT
from .lab import FAMILIES, Family, Lab
from .ns import wait_until
from .traffic import ping

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland, node b the kernel's device."""
    yield from running(Lab(tmp_path_factory.mktemp("lab"), "compiled"))


@contextmanager
def live(lab: Lab, folder: Path, family: Family, *prefix: str) -> Iterator[tuple[Path, Path]]:
    """Follow the flow between the pods from node a; yield the files of standard output and standard error."""
    out, err = folder / "out", folder / "err"
    command = (sys.executable, "-m", "vxland.ctl", "--socket", str(control(lab.vxland)), "trace", "--live", "--json")
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            shell.exec_in(lab.a.ns.name, *prefix, *command, lab.a.pod[family], lab.b.pod[family]),
            cwd=ROOT,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        yield out, err
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def dropped(out: Path) -> list[dict[str, Any]]:
    """Return the kernel's drops that were printed so far."""
    found = [json.loads(each) for each in out.read_text().splitlines(keepends=True) if each.endswith("\n")]
    return [each for each in found if each["verdict"] == "kernel_drop"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernels_drops_and_their_reasons(lab: Lab, tmp_path: Path, family: Family) -> None:
    """A rule of this node's firewall, and a closed port in the pod of the other node, seen by the shared kernel.

    Each reply to a ping was shown as dropped too: the kernel drops its own copy of what a raw socket has got.
    """
    source, target = lab.a.pod[family], lab.b.pod[family]
    rule = ("inet", "live", "forward")
    with live(lab, tmp_path, family) as (out, err), lab.a.pod_ns.socket(source) as sender:

        def found(**fields: object) -> bool:
            """Send a packet; return whether such a drop was printed."""
            sender.sendto(b"x", (target, 9))
            return any(fields.items() <= each.items() for each in dropped(out))

        closed = {"kernel_reason": "NO_SOCKET", "here": False, "dst": target, "proto": "udp", "dport": 9}
        wait_until(lambda: found(**closed), "the pod's closed port", lambda: out.read_text() + err.read_text())
        ping(lab.a.pod_ns, target)
        lab.a.ns.run("nft", "add", "table", "inet", "live")
        try:
            lab.a.ns.run("nft", "add", "chain", *rule, "{ type filter hook forward priority 0; }")
            lab.a.ns.run("nft", "add", "rule", *rule, "udp", "dport", "9", "drop")
            filtered = {"kernel_reason": "NETFILTER_DROP", "here": True, "src": source, "is_datagram": False}
            wait_until(lambda: found(**filtered), "the firewall's drop", out.read_text)
        finally:
            lab.a.ns.run("nft", "delete", "table", "inet", "live")
        pings = [each for each in dropped(out) if each["proto"] not in {"udp", "tcp"} and each["dst"] == source]
        assert pings == [], "the reply to a ping arrived"


def test_without_the_right_it_says_so(lab: Lab, tmp_path: Path) -> None:
    """The frames that vxland carries are shown all the same."""
    without = ("setpriv", "--bounding-set=-perfmon,-sys_admin")
    with live(lab, tmp_path, 4, *without) as (out, err):
        wait_until(lambda: "BPF and PERFMON" in err.read_text(), "the reason", err.read_text)

        def forwarded() -> bool:
            lab.a.pod_ns.attempt("ping", "-c1", "-W1", lab.b.pod[4])
            return '"verdict": "forwarded"' in out.read_text()

        wait_until(forwarded, "a frame", err.read_text)
