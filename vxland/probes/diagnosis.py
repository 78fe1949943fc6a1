"""The likely cause of a peer's failure, and its remedy, from the evidence that this node has. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vxland.inspect.reasons import REASONS
from vxland.model.lease import Address, Lease, Mac
from vxland.probes.captured import Refusal
from vxland.probes.reach import Cause, CauseLabel

_DROPPED: dict[str, CauseLabel] = {
    "wrong_vni": "wrong_vni",
    "unknown_vtep": "unknown_vtep",
    "own_mac": "own_mac",
    "inner_source_foreign": "inner_source_foreign",
}
"""Drop reasons that are causes of the same name; all others are `dropped_here`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Findings about a silent peer."""

    direct: bool = False
    """Whether packets for it bypass the tunnel (DirectRouting)."""
    port_unreachable: bool = False
    """True if the peer sends ICMP port unreachable for its VXLAN port: the port is closed, or a firewall rejects."""
    icmp_error: str = ""
    """An ICMP error of another kind, or from another sender, for a datagram to that port."""
    offender: Address | None = None
    """The sender of that error; None: this node itself."""
    unresolved: bool = False
    """True if nothing on the link answers ARP or neighbour discovery for its underlay address."""
    mac: Mac | None = None
    """The MAC that it answers through the tunnel."""
    frames_arrive: bool = False
    """Whether frames from it arrived in the meantime."""
    dropped: Refusal | None = None
    """A datagram of it that this node dropped recently."""
    answers_ping: bool = False
    """True if the peer's underlay address answers pings."""
    queried: bool = True
    """False if the underlay is in another network namespace, so that it could not be queried there."""
    not_sent: str = ""
    """The reason why this node's kernel refuses to send the pings."""


def diagnose_silence(lease: Lease, port: int, found: Evidence) -> Cause:
    """Return why a peer is unreachable, by the strongest piece of evidence."""
    if found.not_sent:
        why = f"this node's kernel refuses to send to {lease.subnet.network_address}: {found.not_sent}"
        return Cause("not_sent", why, "look at vxlandctl plan, and at routes and firewall rules of this node")
    if found.direct:
        return _direct(lease, found)
    dropped = found.dropped if not found.frames_arrive else None
    if found.port_unreachable and (dropped is None or dropped.reason != "unknown_vtep"):  # else it has moved
        return _port_unreachable(lease.vtep.address, port, found)
    if found.mac is not None:
        return _answered(found.mac, lease.vtep.mac)
    if dropped is not None:
        return _dropped(lease, dropped)
    if found.icmp_error:
        return _refused(lease.vtep.address, port, found)
    return _unanswered(lease.vtep.address, port, found)


def _port_unreachable(vtep: Address, port: int, found: Evidence) -> Cause:
    """Explain ICMP type 3 code 3 or ICMPv6 1 and 4, from a closed port or by default from a firewall's REJECT."""
    if found.frames_arrive:
        why = f"{vtep} answers ICMP port unreachable for UDP port {port}, but its frames arrive, so its device"
        why += " exists: a firewall rejects it"
        return Cause("refused", why, f"let the firewall there accept UDP port {port} from this node")
    why = f"UDP port {port} is closed at {vtep}, or rejected by a firewall: ICMP port unreachable"
    remedy = f"start flanneld or vxland on that node, or compare its port with overlay.port {port}"
    return Cause("port_closed", why, f"{remedy}; if it runs there, look for a REJECT rule")


def _answered(mac: Mac, registered: Mac) -> Cause:
    """Explain an answer through the tunnel."""
    if mac != registered:
        why = f"its device has the MAC {mac}, and the registry says {registered}, to which frames are sent"
        return Cause("mac_stale", why, "restart flanneld or vxland on that node, or correct the registry's entry")
    why = "the tunnel works, for it answers ARP or neighbour discovery, but not pings"
    return Cause("pings_filtered", why, "let its firewall accept ICMP echo from the overlay; pods may be fine")


def _refused(vtep: Address, port: int, found: Evidence) -> Cause:
    who = "this node" if found.offender is None else str(found.offender)
    why = f"{who} refuses datagrams to UDP port {port} of {vtep}: {found.icmp_error}"
    if found.offender == vtep:  # a host does not say so of itself: RFC 1122 section 3.2.2.1
        return Cause("refused", why, f"let the firewall there accept UDP port {port} from this node")
    return Cause("refused", why, "look at routes and firewalls between the nodes")


def _unanswered(vtep: Address, port: int, found: Evidence) -> Cause:
    """Explain silence without any ICMP error."""
    if found.frames_arrive:
        why = f"its frames arrive, but it answers none of ours: UDP port {port} of {vtep} is filtered, or its entry of"
        why += " this node's MAC or address is stale"
        return Cause("one_way", why, f"let its firewall accept UDP port {port}, or restart flanneld or vxland there")
    if found.answers_ping:
        why = f"{vtep} answers pings, but nothing comes through the tunnel: UDP port {port} is filtered on the way, or"
        why += " a device damages the checksums of its datagrams, or"
        why += " the daemon there hangs or is stopped, or its device is missing, has another VNI or does not know this"
        why += " node"
        remedy = f"let firewalls pass UDP port {port} both ways; on that node check whether vxlandctl status answers,"
        remedy += " and the output of `ip -d link show flannel.1`; if vxlandctl stats of one of the two nodes counts"
        return Cause("tunnel_filtered", why, f"{remedy} outer_checksum, switch off that offload (tx) on the other")
    if not found.queried:
        why = f"nothing comes from {vtep}, and vxland cannot query it: the underlay is in another network namespace"
        remedy = f"ping {vtep} there; if it answers, look for a filter of UDP port {port}, and at that node's daemon"
        return Cause("silent", why, remedy)
    if found.unresolved:
        why = f"nothing on the link has the address {vtep}: ARP or neighbour discovery is not answered"
        return Cause("silent", why, "the node or the network to it is down, or it has another address by now")
    why = f"nothing comes from {vtep}, not even answers to pings of that address"
    return Cause("silent", why, "the node or the network to it is down, or a firewall drops all of it")


def _dropped(lease: Lease, dropped: Refusal) -> Cause:
    """Explain datagrams that arrive, and that this node drops."""
    reason = REASONS[dropped.reason]
    whose, detail = f"datagrams of {lease.vtep.address}", reason.happened
    if dropped.reason == "wrong_vni":
        detail = f"{detail}, with VNI {dropped.vni}"
    elif dropped.reason == "unknown_vtep":  # known by their MAC
        whose, detail = "its datagrams", f"they come from {dropped.source}, which is not the VTEP of any lease"
    why = f"{whose} arrive, and this node drops them as {dropped.reason}: {detail}"
    return Cause(_DROPPED.get(dropped.reason, "dropped_here"), why, f"{reason.remedy}; vxlandctl drops")


def _direct(lease: Lease, found: Evidence) -> Cause:
    vtep = lease.vtep.address
    if found.answers_ping:
        pinged = lease.subnet.network_address
        why = f"{vtep} answers pings, but {pinged}, which is routed to it without the tunnel, does not"
        return Cause("pings_filtered", why, "look at its routes, reverse path filter and firewall; DirectRouting is on")
    why = f"nothing comes from {vtep}, to which packets bypass the tunnel"
    return Cause("silent", why, "the node or the network to it is down, or a firewall drops all of it")


def diagnose_mtu_hole(mtu: int, overhead: int, passes: int) -> Cause:
    """Return why full packets do not pass; `passes` is the size in bytes that does, if a router reported it, else 0."""
    known = f"; {passes} bytes do" if passes else ""
    why = f"a packet of {mtu} bytes does not pass, though small ones do{known}"
    most = f"to {passes} or less" if passes else "on every node"
    remedy = f"raise the MTU of the underlay to {mtu + overhead} all the way, or lower overlay.mtu {most}"
    return Cause("mtu_hole", why, remedy)
