"""Rules about the start: what keeps vxland from running on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from vxland.config import Settings
from vxland.forwarding.io import tap
from vxland.kernel.privilege import held
from vxland.kernel.sockets import bound
from vxland.model.errors import FlanneldRunningError, StartError
from vxland.model.finding import Finding
from vxland.model.text import link_name
from vxland.netlink.client import Netlink
from vxland.netlink.port_owner import unopened
from vxland.node.preflight.target import Target
from vxland.node.running_flanneld import MANIFEST_PORT, FlanneldWatch, find_sign

_NO_START = "vxland cannot start, and pods reach no other node"
_WAITS = "vxland waits, and flanneld forwards"


def privileges(device: str) -> Iterator[Finding]:
    """Yield what this process lacks to make a TAP."""
    if (problem := tap.unusable(device)) is not None:
        yield _error("tun", problem)
    if "CAP_NET_ADMIN" not in (now := held()).capabilities:
        found = f"{now.user} has no CAP_NET_ADMIN here"
        remedy = "run as root or with CAP_NET_ADMIN (in a container: --cap-add NET_ADMIN)"
        yield Finding("error", "capabilities", found, "vxland can make neither device nor routes", remedy)


async def obstacles(
    netlink: Netlink, targets: Sequence[Target], settings: Settings, *, cluster: bool
) -> AsyncIterator[Finding]:
    """Yield what other programs have of what vxland needs. A vxland that runs on a device has it all already."""
    stopped = [each for each in targets if not tap.is_claimed(each.device)]
    for target in stopped:
        async for finding in _device(netlink, target, cluster=cluster):
            yield finding
        if not target.underlay.elsewhere:  # else its sockets are handed in
            async for finding in _port(netlink, target):
                yield finding
    if stopped:
        async for finding in _flanneld(stopped[0].device, settings, cluster=cluster):
            yield finding


async def _device(netlink: Netlink, target: Target, *, cluster: bool) -> AsyncIterator[Finding]:
    link = await netlink.link(target.device)
    if link is not None and link.kind != "tun" and not (cluster and link.kind == "vxlan"):  # that is replaced
        yield _error("device", tap.foreign(target.device))


async def _port(netlink: Netlink, target: Target) -> AsyncIterator[Finding]:
    overlay, underlay = target.settings.overlay, target.underlay
    try:
        bound(underlay.address, overlay.port, vrf=underlay.vrf).close()
    except StartError as exc:
        yield _error("port", exc)
    except OSError as exc:
        yield _error("port", await unopened(netlink, overlay.port, exc))
        return
    for link in await netlink.links():
        if link.name == target.device or link.vxlan_port is None:
            continue
        name = link_name(link.name)
        if link.vxlan_port == overlay.port:  # one that is up holds the port
            found = f"the kernel vxlan device {name} has UDP port {overlay.port} too, and is down"
            effect = "it cannot be set up while vxland runs, nor can vxland start while it is up"
            yield Finding("warning", "port", found, effect, f"ip link delete {name}, or choose another overlay.port")
        elif link.vxlan_vni == overlay.vni:
            found = f"the kernel vxlan device {name} has VNI {overlay.vni} on UDP port {link.vxlan_port}"
            effect = f"if it is the cluster's, other nodes do not reach this one on port {overlay.port}"
            yield Finding("warning", "port", found, effect, f"set overlay.port: {link.vxlan_port}, or delete {name}")


async def _flanneld(device: str, settings: Settings, *, cluster: bool) -> AsyncIterator[Finding]:
    listen = settings.metrics.listen
    if cluster:
        try:
            await FlanneldWatch(None if listen is None else listen.port).check(device)
        except FlanneldRunningError as exc:
            yield Finding("error", "flanneld", exc.cause, _WAITS, exc.remedy)
    elif sign := await find_sign(frozenset({MANIFEST_PORT})):
        effect = f"if its network has the VNI {settings.overlay.vni} too, it takes {device} away"
        remedy = "stop it, or give vxland another overlay.vni and overlay.port"
        yield Finding("warning", "flanneld", f"flanneld runs on this node ({sign})", effect, remedy)


def _error(subject: str, problem: StartError) -> Finding:
    return Finding("error", subject, problem.cause, _NO_START, problem.remedy)
