"""The checks of `vxlandctl test`: what was seen of a peer, and what that means. Pure.

Every datagram of VARIANTS is a request to the peer's responder. Each direction can be sent with or without a UDP
checksum. A kernel drops what arrives with a wrong checksum, and nothing else makes a difference between the two. So a
direction that loses datagrams with a checksum, and only these, damages checksums. A device that is to complete them
(checksum offload) and does not is the usual reason. For TCP, which always has a checksum, the kernels' counters of bad
ones say the same.

A kernel vxlan node has no responder, and its kernel refuses the port. It is pinged only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from vxland.model.lease import Lease
from vxland.probes.reach import Cause, Reach
from vxland.wire.path_check import BadChecksums

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]
CheckName: TypeAlias = Literal["ping", "mtu", "udp", "tcp", "checksum", "dnat"]

Variant: TypeAlias = Literal["bare", "there", "back", "both", "full"]


@dataclass(frozen=True, slots=True)
class Form:
    """A datagram of a variant: whether request and reply have a checksum, and whether it has the size of the MTU."""

    request: bool
    reply: bool
    full: bool = False


VARIANTS: Final[Mapping[Variant, Form]] = {
    "bare": Form(request=False, reply=False),
    "there": Form(request=True, reply=False),
    "back": Form(request=False, reply=True),
    "both": Form(request=True, reply=True),
    "full": Form(request=True, reply=True, full=True),
}

TransferEnd: TypeAlias = Literal["not_tried", "done", "refused", "silent", "stalled", "broken", "changed", "not_sent"]


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Datagrams of a test: the variants that were answered, and what happened otherwise."""

    answered: frozenset[Variant] = frozenset()
    refused: bool = False
    """Whether the peer's kernel said that its port is closed."""
    not_sent: str = ""
    """The reason why this node's kernel refused to send."""
    full_len: int = 0
    """The size of the packets of `full`, in bytes."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A connection of a test, which returns what was sent: how it ended, and how far it came."""

    end: TransferEnd = "not_tried"
    error: str = ""
    sent_len: int = 0
    back_len: int = 0
    sent_again: int = 0
    """Segments that this node sent more than once."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Observations of one peer."""

    reach: Reach = field(default_factory=Reach)
    no_pings: str = ""
    """The reason why it was not pinged; empty if it was."""
    direct: bool = False
    """Whether packets for it bypass the tunnel (DirectRouting)."""
    datagrams: Datagrams = Datagrams()
    transfer: Transfer = Transfer()
    dnat: Transfer | None = None
    """A connection to this node's own address, which a nat rule turns to the peer; None if none was wanted."""
    bad_there: BadChecksums = field(default_factory=BadChecksums)
    """Packets with a bad checksum that the peer's kernel counted during the test, from any sender."""
    bad_here: BadChecksums = field(default_factory=BadChecksums)
    """The same of this node's kernel."""
    mtu: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: outcome, the reason unless it passed plainly, and the remedy of a failure."""

    outcome: Outcome
    happened: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class PeerResult:
    """The results of one peer; `note` says why checks were skipped."""

    lease: Lease
    checks: Mapping[CheckName, Check]
    rtt_s: float | None = None
    note: str = ""
    sent_again: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        """Whether no check failed, and at least one passed."""
        outcomes = {check.outcome for check in self.checks.values()}
        return "failed" not in outcomes and "passed" in outcomes


_PASSED = Check("passed")
_TCP_HEADERS_LEN: Final = 52  # IPv4 and TCP with timestamps
_LOSSY: Final = 4
"""A connection fails if more than one of so many segments is sent again: then even small transfers take seconds."""

_NO_RESPONDER: Final = "no responder: ping only"
_OFFLOADS: Final = "switch off the checksum offload (ethtool -K DEV tx off) of the devices that the packets leave by on"


def judge(lease: Lease, seen: Seen) -> PeerResult:
    """Return the results of the checks of a peer."""
    checks: dict[CheckName, Check] = {"ping": _ping(seen), "mtu": _mtu(seen)}
    note = _why_no_responder(seen)
    if note:
        checks |= dict.fromkeys(("udp", "tcp", "checksum"), Check("skipped", note))
    elif not has_responder(seen):
        checks |= dict(_silent(lease, seen))
    else:
        tcp, checksum = _tcp(seen.transfer, seen), _checksum(lease, seen)
        if tcp.outcome == checksum.outcome == "failed":
            tcp = replace(tcp, remedy="the result of checksum")
        checks |= {"udp": _udp(seen), "tcp": tcp, "checksum": checksum}
    if seen.dnat is not None:
        checks["dnat"] = _dnat(seen, seen.dnat) if has_responder(seen) else Check("skipped", "no responder answers")
    if seen.no_pings and not note:
        note = "not pinged"
    return PeerResult(lease, checks, seen.reach.rtt_s, note, seen.transfer.sent_again, seen.transfer.seconds)


def has_responder(seen: Seen) -> bool:
    """Return whether a responder has answered."""
    return bool(seen.datagrams.answered) or seen.transfer.end in {"done", "stalled", "broken", "changed"}


def _why_no_responder(seen: Seen) -> str:
    """Return the reason why a peer was pinged only; empty if a responder answered, or may be there."""
    if seen.direct:
        return "DirectRouting, without the tunnel: ping only"
    if has_responder(seen):
        return ""
    if seen.datagrams.refused or seen.transfer.end == "refused":
        return _NO_RESPONDER
    return "unreachable" if seen.reach.state == "unreachable" else ""


def _ping(seen: Seen) -> Check:
    if seen.no_pings:
        return Check("skipped", seen.no_pings)
    cause = seen.reach.cause
    match seen.reach.state:
        case "reachable":
            return _PASSED
        case "unreachable" if cause is not None:
            return _failed(cause)
    return Check("failed", "no reply to pings came in time", "try again; see vxlandctl peers")


def _mtu(seen: Seen) -> Check:
    if seen.no_pings or seen.reach.state != "reachable":
        return Check("skipped", seen.no_pings or "no reply to small pings")
    if seen.reach.full_mtu == "passes":
        return _PASSED
    cause = seen.reach.cause
    if cause is not None:
        return _failed(cause)
    return Check("failed", f"no reply to a packet of {seen.mtu} bytes came in time", "try again; see docs/mtu.md")


def _failed(cause: Cause) -> Check:
    return Check("failed", f"{cause.label}: {cause.happened}", cause.remedy)


def _silent(lease: Lease, seen: Seen) -> Iterator[tuple[CheckName, Check]]:
    """Yield the results of a peer whose port gives no answer and no refusal."""
    if why := seen.datagrams.not_sent or (seen.transfer.error if seen.transfer.end == "not_sent" else ""):
        happened = f"this node's kernel refuses to send to {lease.subnet.network_address}: {why}"
        failed = Check("failed", happened, "look at vxlandctl plan, and at routes and firewall rules of this node")
    else:
        happened = f"nothing comes back from UDP and TCP port {seen.port} of {lease.subnet.network_address}, "
        happened += "not even a refusal, though pings pass" if seen.reach.state == "reachable" else "not even a refusal"
        remedy = "let the firewalls of both nodes pass the port on the overlay; without a vxland there, let it refuse"
        failed = Check("failed", happened, f"{remedy} the port (REJECT)")
    yield "udp", failed
    yield "tcp", failed
    yield "checksum", Check("skipped", "nothing arrived that could show it")


def _udp(seen: Seen) -> Check:
    answered, full_len = seen.datagrams.answered, seen.datagrams.full_len
    if not answered:
        why = "no datagram was answered, but TCP connects"
        return Check("failed", why, f"a firewall that drops UDP port {seen.port} on the overlay")
    if "both" not in answered:
        if "bare" in answered:
            return Check("failed", "datagrams pass only without a checksum", "the result of checksum")
        return Check("failed", "some datagrams are lost every time", "vxlandctl drops on both nodes")
    if "full" not in answered:
        why = f"packets of {full_len} bytes are lost, small ones pass"
        return Check("failed", why, "the result of mtu, and docs/mtu.md")
    return _PASSED


def _tcp(done: Transfer, seen: Seen) -> Check:
    port, segments = seen.port, done.sent_len // max(seen.mtu - _TCP_HEADERS_LEN, 1) + 1
    again = f", {done.sent_again} segments sent again" if done.sent_again else ""
    match done.end:
        case "done" if done.sent_again * _LOSSY > segments:
            why = (
                f"the connection crawls: {done.sent_again} segments sent again for {segments}, in {done.seconds:.0f} s"
            )
            return Check("failed", why, "firewall rules for the underlay's UDP port, and vxlandctl stats on both nodes")
        case "done":
            return Check("passed", again.removeprefix(", "))
        case "not_tried":
            return Check("skipped", "not tried")
        case "changed":
            why = f"{done.back_len} bytes came back, and not as they were sent"
            return Check("failed", why, "a device on the way damages packets and corrects their checksum: replace it")
        case "stalled":
            why = f"the connection stalls: {done.back_len} of {done.sent_len} bytes came back in {done.seconds:.0f} s"
            return Check("failed", why + again, "the results of mtu and checksum, and vxlandctl drops on both nodes")
        case "silent":
            why = f"no answer to SYN{', though UDP passes' if 'both' in seen.datagrams.answered else ''}"
            return Check("failed", why + again, f"a firewall that drops TCP port {port} on the overlay")
        case _:
            why = {"refused": "the connection is refused", "broken": "the connection is reset"}.get(
                done.end, "the connection cannot be opened"
            )
            detail = f": {done.error}" if done.error else ""
            return Check("failed", why + detail, f"its responder may be busy: try again; or a firewall rejects {port}")


def _dnat(seen: Seen, done: Transfer) -> Check:
    """Judge a connection through a nat rule, as one to a NodePort is; a direct one separates the causes."""
    if done.end == "not_tried":
        return Check("skipped", done.error or "not tried")
    check = _tcp(done, seen)
    if check.outcome != "failed":
        return check
    if seen.transfer.end != "done":
        return Check("failed", f"through a nat rule: {check.happened}", "the result of tcp")
    why = f"through a nat rule, as to a NodePort, {check.happened}; a direct connection passes"
    return Check("failed", why, f"nat rules of this node (nft list ruleset); or {_OFFLOADS} this node")


def _checksum(lease: Lease, seen: Seen) -> Check:
    """Find the direction in which packets get a wrong checksum."""
    answered, base = seen.datagrams.answered, lease.subnet.network_address
    if "bare" in answered and not answered & {"there", "both"}:
        why = f"datagrams to {base} arrive only without a UDP checksum: with one it is wrong on arrival"
        return Check("failed", why, f"{_OFFLOADS} this node")
    if "bare" in answered and not answered & {"back", "both"}:
        why = f"datagrams from {base} arrive only without a UDP checksum: with one it is wrong on arrival"
        return Check("failed", why, f"{_OFFLOADS} that node")
    troubled = seen.transfer.end in {"silent", "stalled", "broken"} or seen.transfer.sent_again
    if troubled and seen.bad_there.tcp:
        why = f"{lease.vtep.address} counted {seen.bad_there.tcp} TCP segments with a bad checksum during the test"
        return Check("failed", why, f"{_OFFLOADS} this node")
    if troubled and seen.bad_here.tcp:
        why = f"this node counted {seen.bad_here.tcp} TCP segments with a bad checksum during the test"
        return Check("failed", why, f"{_OFFLOADS} the node at {lease.vtep.address}")
    if "both" not in answered:
        return Check("skipped", "too few datagrams pass to show it")
    return _PASSED
