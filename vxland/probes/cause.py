"""From what this node can see to the likely cause, and what to do. Pure. No more certainty than the evidence has."""

from __future__ import annotations

from dataclasses import dataclass

from vxland.model import Address, Lease, Mac
from vxland.ops.sample import Cause


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an examination of a silent peer found."""

    direct: bool = False
    """Whether packets for it go past the tunnel (DirectRouting)."""
    closed: bool = False
    """Whether its VXLAN port is closed, as an ICMP error said."""
    refused: str = ""
    """What ICMP error of another kind a datagram to that port met."""
    offender: Address | None = None
    """Who sent that error; None: this node itself."""
    mac: Mac | None = None
    """Which MAC it says it has, asked through the tunnel."""
    heard: bool = False
    """Whether frames came from it meanwhile."""
    pinged: bool = False
    """Whether its underlay address answers pings."""
    not_sent: str = ""
    """Why this node's kernel refuses to send the pings."""


def of_silence(lease: Lease, port: int, found: Evidence) -> Cause:
    """Why a peer is unreachable, by the most telling piece of evidence."""
    vtep = lease.vtep.address
    if found.not_sent:
        why = f"this node's kernel refuses to send to {lease.subnet.network_address}: {found.not_sent}"
        return Cause("not_sent", why, "look at vxlandctl plan, and at routes and firewall rules of this node")
    if found.direct:
        return _direct(lease, found)
    if found.closed:
        why = f"UDP port {port} is closed at {vtep}: no VXLAN device listens there"
        return Cause("port_closed", why, "start flanneld or vxland on that node, or compare its port with overlay.port")
    if found.mac is not None and found.mac != lease.vtep.mac:
        why = f"its device has the MAC {found.mac}, and the registry says {lease.vtep.mac}, to which frames are sent"
        return Cause("mac_stale", why, "restart flanneld or vxland on that node, or correct the registry's entry")
    if found.mac is not None:
        why = "the tunnel works, for it answers ARP or neighbour discovery, but not pings"
        return Cause("pings_filtered", why, "let its firewall accept ICMP echo from the overlay; pods may be fine")
    if found.refused:
        who = "this node" if found.offender is None else str(found.offender)
        why = f"{who} refuses datagrams to UDP port {port} of {vtep}: {found.refused}"
        return Cause("refused", why, "look at routes and firewalls between the nodes")
    if found.heard:
        why = f"its frames come in, but it answers none of ours: UDP port {port} of {vtep} is filtered, or its entry of"
        why += " this node's MAC or address is stale"
        return Cause("one_way", why, f"let its firewall accept UDP port {port}, or restart flanneld or vxland there")
    if found.pinged:
        why = f"{vtep} answers pings, but nothing comes through the tunnel: UDP port {port} is filtered on the way, its"
        why += " device is missing, or it does not know this node"
        return Cause("tunnel_filtered", why, f"let firewalls pass UDP port {port} both ways; look at its flannel.1")
    why = f"nothing comes from {vtep}, not even answers to pings of that address"
    return Cause("silent", why, "the node or the network to it is down, or a firewall drops all of it")


def _direct(lease: Lease, found: Evidence) -> Cause:
    vtep = lease.vtep.address
    if found.pinged:
        why = (
            f"{vtep} answers pings, but {lease.subnet.network_address}, which is routed to it past the tunnel, does not"
        )
        return Cause("pings_filtered", why, "look at its routes, reverse path filter and firewall; DirectRouting is on")
    why = f"nothing comes from {vtep}, to which packets go past the tunnel"
    return Cause("silent", why, "the node or the network to it is down, or a firewall drops all of it")


def of_hole(mtu: int, overhead: int, passes: int) -> Cause:
    """Why full packets do not pass; `passes` octets do, where a router told, else 0."""
    known = f"; {passes} octets do" if passes else ""
    why = f"a packet of {mtu} octets does not pass, though small ones do{known}"
    most = f"to {passes} or less" if passes else "on every node"
    remedy = f"raise the MTU of the underlay to {mtu + overhead} all the way, or lower overlay.mtu {most}"
    return Cause("mtu_hole", why, remedy)
