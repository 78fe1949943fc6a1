"""From what this node can see to the likely cause, and what to do. Pure. No more certainty than the evidence has."""

from __future__ import annotations

from dataclasses import dataclass

from vxland.inspect.reasons import REASONS
from vxland.model.lease import Address, Lease, Mac
from vxland.probes.captured import Refusal
from vxland.probes.reach import Cause, Trouble

_DROPPED: dict[str, Trouble] = {
    "wrong_vni": "wrong_vni",
    "unknown_vtep": "unknown_vtep",
    "own_mac": "own_mac",
    "inner_source_foreign": "inner_source_foreign",
}
"""Reasons to drop a peer's datagrams that are causes by their own name; all others are `dropped_here`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an examination of a silent peer found."""

    direct: bool = False
    """Whether packets for it go past the tunnel (DirectRouting)."""
    closed: bool = False
    """Whether it answers ICMP port unreachable for its VXLAN port: a closed one, or a firewall's REJECT."""
    refused: str = ""
    """The ICMP error of another kind, or of another sender, that a datagram to that port met."""
    offender: Address | None = None
    """Who sent that error; None: this node itself."""
    mac: Mac | None = None
    """Which MAC it says it has, asked through the tunnel."""
    heard: bool = False
    """Whether frames came from it meanwhile."""
    dropped: Refusal | None = None
    """A datagram of it that this node dropped of late."""
    pinged: bool = False
    """Whether its underlay address answers pings."""
    not_sent: str = ""
    """Why this node's kernel refuses to send the pings."""


def of_silence(lease: Lease, port: int, found: Evidence) -> Cause:
    """Why a peer is unreachable, by the most telling piece of evidence."""
    if found.not_sent:
        why = f"this node's kernel refuses to send to {lease.subnet.network_address}: {found.not_sent}"
        return Cause("not_sent", why, "look at vxlandctl plan, and at routes and firewall rules of this node")
    if found.direct:
        return _direct(lease, found)
    dropped = found.dropped if not found.heard else None
    if found.closed and (dropped is None or dropped.word != "unknown_vtep"):  # else it has moved
        return _port_unreachable(lease.vtep.address, port, found)
    if found.mac is not None:
        return _answered(found.mac, lease.vtep.mac)
    if dropped is not None:
        return _dropped(lease, dropped)
    if found.refused:
        return _refused(lease.vtep.address, port, found)
    return _unanswered(lease.vtep.address, port, found)


def _port_unreachable(vtep: Address, port: int, found: Evidence) -> Cause:
    """A closed port and a firewall's REJECT, by default, send the same ICMP error: type 3 code 3, ICMPv6 1 and 4."""
    if found.heard:
        why = f"{vtep} answers ICMP port unreachable for UDP port {port}, though its frames come in, so that its device"
        why += " is there: a firewall rejects it"
        return Cause("refused", why, f"let the firewall there accept UDP port {port} from this node")
    why = f"UDP port {port} is closed at {vtep}, or rejected by a firewall: ICMP port unreachable"
    remedy = f"start flanneld or vxland on that node, or compare its port with overlay.port {port}"
    return Cause("port_closed", why, f"{remedy}; if it runs there, look for a REJECT rule")


def _answered(mac: Mac, registered: Mac) -> Cause:
    """The question through the tunnel was answered."""
    if mac != registered:
        why = f"its device has the MAC {mac}, and the registry says {registered}, to which frames are sent"
        return Cause("mac_stale", why, "restart flanneld or vxland on that node, or correct the registry's entry")
    why = "the tunnel works, for it answers ARP or neighbour discovery, but not pings"
    return Cause("pings_filtered", why, "let its firewall accept ICMP echo from the overlay; pods may be fine")


def _refused(vtep: Address, port: int, found: Evidence) -> Cause:
    who = "this node" if found.offender is None else str(found.offender)
    why = f"{who} refuses datagrams to UDP port {port} of {vtep}: {found.refused}"
    if found.offender == vtep:  # a host does not say so of itself: RFC 1122 section 3.2.2.1
        return Cause("refused", why, f"let the firewall there accept UDP port {port} from this node")
    return Cause("refused", why, "look at routes and firewalls between the nodes")


def _unanswered(vtep: Address, port: int, found: Evidence) -> Cause:
    """Nothing came back, of whatever kind."""
    if found.heard:
        why = f"its frames come in, but it answers none of ours: UDP port {port} of {vtep} is filtered, or its entry of"
        why += " this node's MAC or address is stale"
        return Cause("one_way", why, f"let its firewall accept UDP port {port}, or restart flanneld or vxland there")
    if found.pinged:
        why = f"{vtep} answers pings, but nothing comes through the tunnel: UDP port {port} is filtered on the way, or"
        why += " the daemon there hangs or is stopped, or its device is missing, has another VNI or does not know this"
        why += " node"
        remedy = f"let firewalls pass UDP port {port} both ways; on that node see whether vxlandctl status is answered,"
        return Cause("tunnel_filtered", why, f"{remedy} or what `ip -d link show flannel.1` says")
    why = f"nothing comes from {vtep}, not even answers to pings of that address"
    return Cause("silent", why, "the node or the network to it is down, or a firewall drops all of it")


def _dropped(lease: Lease, dropped: Refusal) -> Cause:
    """Its datagrams come in, and this node drops them."""
    reason = REASONS[dropped.word]
    whose, detail = f"datagrams of {lease.vtep.address}", reason.happened
    if dropped.word == "wrong_vni":
        detail = f"{detail}, with VNI {dropped.vni}"
    elif dropped.word == "unknown_vtep":  # known by their MAC
        whose, detail = "its datagrams", f"they come from {dropped.source}, which is not the VTEP of any lease"
    why = f"{whose} come in, and this node drops them as {dropped.word}: {detail}"
    return Cause(_DROPPED.get(dropped.word, "dropped_here"), why, f"{reason.remedy}; vxlandctl drops")


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
