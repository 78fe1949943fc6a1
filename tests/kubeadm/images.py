"""The images that kubeadm names, made of programs: those of Kubernetes, and Debian's etcd.

That of coredns is empty: Debian has no package of it, and kubeadm looks for its image even where its phase is skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from tests import archive

SANDBOX: Final = "registry.k8s.io/pause:3.6"
"""The name that Debian's containerd has for the image of a pod's own container."""

_LOCAL: Final = Path("/usr/local/bin")


def make(binaries: Path, target: Path, version: str) -> None:
    """Write an archive of each image of a version into the folder `target`."""
    target.mkdir(exist_ok=True)
    command = (binaries / "kubeadm", "config", "images", "list", "--kubernetes-version", version)
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        program = name.rpartition("/")[2].partition(":")[0]
        is_pause = program == "pause"
        archive.write(
            target / f"{program}.tar",
            [name, SANDBOX] if is_pause else [name],
            partial(archive.add, files=list(_files(program, binaries))),
            Entrypoint=[f"{_LOCAL}/{program}"] if is_pause else [],
        )


def _files(program: str, binaries: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each file's path in the image, and its path here."""
    if program == "coredns":
        return
    yield _LOCAL / program, archive.program("etcd") if program == "etcd" else binaries / program
    if program == "kube-proxy":
        yield from archive.firewall()
        yield Path("/usr/sbin/conntrack"), archive.program("conntrack")
