"""The cluster of these tests: made before the first, removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.k8s.binaries import unpacked
from tests.k8s.cluster import ROOT, Cluster
from tests.removal import removing

SCRATCH = ROOT / "build" / "k8s"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes without a network daemon. VXLAND_K8S names the folder of cluster.sh; `make test-k8s` sets it."""
    folder = Path(os.environ["VXLAND_K8S"]).resolve()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nodes share mount points, so one cluster at a time
        made = Cluster(folder / "cluster.sh", unpacked(folder.parent / "bin", SCRATCH / "bin"), SCRATCH / "lab")
        with removing(partial(_keep_logs, made.lab), partial(made.run, "down")):
            made.ask("down")  # removes what a killed run left
            made.run("up")
            made.run("nodes")
            made.run("network", "none")
            yield made


def _keep_logs(lab: Path) -> None:
    """Copy the logs out of the lab, which is then emptied."""
    kept = SCRATCH / "logs"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    patterns = ("*.log", "node?/*.log", "node?/var-log-pods/kube-flannel_*/*/*.log")
    for log in (log for pattern in patterns for log in lab.glob(pattern)):
        name = log.relative_to(lab).as_posix().replace("/var-log-pods/", "-").replace("/", "-")
        shutil.copy(log, kept / name)  # follows links, which the kubelet's logs are
    sys.stdout.write(f"    logs: {kept}\n")
