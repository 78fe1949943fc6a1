"""`vxland demo`: the two-node walk-through, built and checked in namespaces of its own."""

from __future__ import annotations

from vxland.demo.story import play
from vxland.demo.topology import Kind

__all__ = ["run"]


def run(*, as_json: bool, peer: Kind, keep: bool) -> int:
    """Play the walk-through with vxland on node 1 and `peer` on node 2; 0 when every check passed, else 1.

    StartError when it cannot begin: no root, no TAP driver, a missing program, or a daemon that does not come up.
    """
    return play(("vxland", peer), json_wanted=as_json, keep=keep)
