"""Contents of a View that only tests read."""

from __future__ import annotations

from vxland.model.lease import Lease
from vxland.registry.view import View


def claimed_leases(view: View) -> frozenset[Lease]:
    """Return every claimed lease, including the node's own and those on its own subnets."""
    return view._own.leases.union(*view._known.values())
