"""Command test: packets to the peers over the way that pods' packets take, and their results as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict
from ipaddress import ip_address, ip_network
from typing import Final

from vxland.model.errors import VxlandError
from vxland.model.lease import Address, Lease, Subnet
from vxland.node.plane import Plane
from vxland.node.snapshot import NodeSnapshot
from vxland.ops.api_server import RequestError
from vxland.probes.path_checks import PeerResult

MAX_TARGETS: Final = 1000


class PathTestAnswers:
    """Answers for the node that `read_state()` returns; one test runs at a time."""

    def __init__(self, read_state: Callable[[], NodeSnapshot]) -> None:
        self._read_state = read_state
        self._running = False

    async def test(self, to: str = "", dnat: bool = False) -> AsyncGenerator[object]:
        """Yield the number of peers to test, then the results of each.

        `to` names peers by nodes, subnets and addresses, separated by commas; of several with `|` between, one must be
        known. `dnat` asks for connections through nat rules too.
        RequestError: no peer has one of them; VxlandError while there is no device, or another test runs.
        """
        node = self._read_state()
        if not node.planes:
            raise VxlandError(f"there is no device yet: {node.sample.not_ready}")
        if self._running:
            raise VxlandError("another test runs: wait for its end, or end it")
        leases = sorted(_chosen(node.leases, to), key=lambda lease: (lease.subnet.version, lease.subnet))
        self._running = True
        try:
            yield {"peers": len(leases)}
            for plane in node.planes:
                own = [lease for lease in leases if lease.subnet.version in plane.versions]
                async with aclosing(plane.path_test.run(own, plane.mtu, dnat=dnat)) as results:
                    async for tested in results:
                        yield _result(tested, plane)
        finally:
            self._running = False


def _chosen(leases: Iterable[Lease], to: str) -> set[Lease]:
    """Return the leases that any of the targets names; all without a target."""
    if not to:
        return set(leases)
    texts = to.split(",")
    if len(texts) > MAX_TARGETS:
        raise RequestError(f"--to: {len(texts)} of them: use {MAX_TARGETS} at most, or none for all peers")
    found: set[Lease] = set()
    everyone = list(leases)
    for text in texts:
        targets = [_target(each.strip()) for each in text.split("|")]
        named = {lease for lease in everyone if any(_is_meant(target, lease) for target in targets)}
        if not named:
            raise RequestError(f"--to: {text!r}: no peer has it: see vxlandctl peers")
        found |= named
    return found


def _target(text: str) -> Address | Subnet | str:
    """Return the subnet, the address or the node's name."""
    try:
        return ip_network(text) if "/" in text else ip_address(text)
    except ValueError as exc:
        if "/" in text:
            raise RequestError(f"--to: {text!r}: use a subnet, an address in it, a node or its VTEP's address") from exc
        return text


def _is_meant(target: Address | Subnet | str, lease: Lease) -> bool:
    if isinstance(target, str):
        return bool(target) and target == lease.node
    if target == lease.vtep.address:
        return True
    if target.version != lease.subnet.version:
        return False
    if isinstance(target, Address):
        return target in lease.subnet
    return lease.subnet.subnet_of(target)  # type: ignore[arg-type]  # of one version


def _result(tested: PeerResult, plane: Plane) -> object:
    lease = tested.lease
    return {
        "subnet": str(lease.subnet),
        "vtep": str(lease.vtep.address),
        "node": lease.node,
        "device": plane.settings.device,
        "passed": tested.passed,
        "note": tested.note,
        "rtt_s": tested.rtt_s,
        "sent_again": tested.sent_again,
        "transfer_s": tested.seconds,
        "checks": {name: asdict(check) for name, check in tested.checks.items()},
    }
