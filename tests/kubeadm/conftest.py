"""The cluster of these tests: made before the first, removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installed import ROOT
from tests.k8s import image
from tests.k8s.binaries import unpacked
from tests.kubeadm import images, source
from tests.kubeadm.cluster import Cluster, booted
from tests.kubeadm.machine import prepared

SCRATCH = ROOT / "build/kubeadm"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes after `kubeadm init` and `join`. VXLAND_K8S names a folder beside that with Kubernetes' programs."""
    binaries = unpacked(Path(os.environ["VXLAND_K8S"]).resolve().parent / "bin", SCRATCH / "bin")
    said = subprocess.run([binaries / "kubelet", "--version"], capture_output=True, text=True, check=True).stdout
    version = said.split()[-1]  # Kubernetes v1.20.2
    source.build(SCRATCH, binaries, version)
    archives = SCRATCH / "images"
    images.make(binaries, archives, version)
    image.build(archives / "vxland.tar")
    root = prepared(SCRATCH, binaries, ROOT / "build/helm")
    with booted(root, archives, f"vxka-{os.getpid()}", SCRATCH) as made:
        made.create(archives)
        yield made
