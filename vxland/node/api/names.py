"""Command names: the names of nodes and pods by address, where the registry knows them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from vxland.model.errors import VxlandError
from vxland.model.lease import Address
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import RequestError

MAX_ADDRESSES = 64


class NameAnswers:
    """Answers for the node that `read_state()` returns."""

    def __init__(self, read_state: Callable[[], NodeSnapshot]) -> None:
        self._read_state = read_state

    async def names(self, addresses: list) -> object:  # type: ignore[type-arg]  # what JSON has
        """Return the names of VTEPs' nodes and of pods by address, and in `error` why names of pods are missing."""
        node, wanted = self._read_state(), _parse(addresses)
        networks = [network for plane in node.planes for network in plane.settings.networks]
        found = {lease.vtep.address: lease.node for lease in node.leases if lease.vtep.address in wanted and lease.node}
        inner = [each for each in wanted if any(each in network for network in networks)]
        error = ""
        try:
            found |= await node.pod_names(inner)
        except VxlandError as exc:
            error = str(exc)
        return {"names": {str(address): name for address, name in found.items()}, "error": error}


def _parse(addresses: list[object]) -> set[Address]:
    if len(addresses) > MAX_ADDRESSES:
        raise RequestError(f"args.addresses: {len(addresses)} of them: ask for at most {MAX_ADDRESSES} at a time")
    try:
        return {ip_address(each) for each in addresses if isinstance(each, str)}
    except ValueError as exc:
        raise RequestError(f"args.addresses: {exc}: use IPv4 and IPv6 addresses") from exc
