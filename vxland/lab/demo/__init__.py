"""`vxland demo`: the two-node walk-through, built and checked in namespaces of its own."""

from __future__ import annotations

from pathlib import Path

from vxland.lab.demo.runner import Scene, play
from vxland.lab.topology import Kind, LabRegistry

__all__ = ["run"]


def run(
    *,
    as_json: bool,
    peer: Kind,
    keep: bool,
    registry: LabRegistry = "static",
    cni: bool = False,
    page_at: Path | None = None,
) -> int:
    """Play the walk-through with vxland on node 1 and `peer` on node 2; 0 when every check passed, else 1.

    `registry`: whether the nodes read of each other in a file or in an etcd. `cni`: whether Debian's CNI plugins
    attach the pods. `page_at`: where the page goes, if anywhere. StartError when it cannot begin: no root, no TAP
    driver, a missing program, or a daemon that does not come up; ConfigError when the page cannot be written.
    """
    return play(Scene(("vxland", peer), registry, cni, keep), json_wanted=as_json, page_at=page_at)
