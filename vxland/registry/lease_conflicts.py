"""VTEP addresses and MACs that several nodes claim. view.py handles overlapping subnets. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vxland.model.lease import Lease, Subnet

_NAMED = 3  # subnets that a sentence names


def find_conflicts(leases: Iterable[Lease]) -> dict[str, str]:
    """Return a sentence for each VTEP address and MAC that several nodes claim, by that address or MAC.

    A node has one subnet of each IP version, so only leases of one version are compared.
    """
    known = set(leases)
    found: dict[str, str] = {}
    for version in (4, 6):
        leases_of = sorted((lease for lease in known if lease.subnet.version == version), key=_order)
        _find_shared(found, "VTEP address", [(str(lease.vtep.address), lease.subnet) for lease in leases_of])
        _find_shared(found, "MAC", [(str(lease.vtep.mac), lease.subnet) for lease in leases_of])
    return found


def _find_shared(found: dict[str, str], what: str, claims: list[tuple[str, Subnet]]) -> None:
    subnets_of: dict[str, list[Subnet]] = {}
    for claimed, subnet in claims:
        subnets_of.setdefault(claimed, []).append(subnet)
    for claimed, subnets in subnets_of.items():
        if len(set(subnets)) > 1:
            more = f" and {len(subnets) - _NAMED} more" if len(subnets) > _NAMED else ""
            named = ", ".join(map(str, subnets[:_NAMED]))
            found[claimed] = f"the {what} {claimed} is that of the nodes of {named}{more}: every node needs its own"


def _order(lease: Lease) -> tuple[int, int, str]:
    return int(lease.subnet.network_address), lease.subnet.prefixlen, str(lease.vtep)
