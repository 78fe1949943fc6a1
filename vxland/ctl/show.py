"""Answers as text, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Answer = Any  # as JSON has it

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def span(seconds: float) -> str:
    """A length of time in its largest unit and the next: `3 h 12 min`."""
    left = int(seconds)
    words: list[str] = []
    for size, unit in _UNITS:
        if left >= size or words:
            words.append(f"{left // size} {unit}")
            left %= size
    return " ".join([*words, f"{left} s"][:2])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need be, two blanks apart; columns whose heading ends with `#` hold numbers."""
    lines = [[name.rstrip("#") for name in head], *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = [name.endswith("#") for name in head]
    return "\n".join(
        "  ".join(
            word.rjust(width) if to_right else word.ljust(width)
            for word, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def status(answer: Answer) -> str:
    """`vxlandctl status`."""
    return "\n".join(_status(answer))


def _status(answer: Answer) -> Iterator[str]:
    yield f"vxland {answer['version']}, {answer['gear']}, pid {answer['pid']}, up {span(answer['uptime_s'])}"
    yield f"  ready      {'no: ' + answer['not_ready'] if answer['not_ready'] else 'yes'}"
    registry = answer["registry"]
    readable = f"cannot be read: {registry['error']}" if registry["error"] else "readable"
    since = f" since {span(registry['for_s'])}" if registry["error"] and registry["for_s"] is not None else ""
    yield f"  registry   {registry['kind']}, {registry['leases']} leases of peers, {readable}{since}"
    for entry, why in registry["quarantined"].items():
        yield f"             quarantined: {entry}: {why}"
    firewall = answer["firewall"]
    state = firewall["error"] or "in force"
    yield f"  firewall   {state if firewall['wanted'] else 'no rules wanted'}"
    for plane in answer["planes"]:
        yield from _plane(plane)


def _plane(plane: Answer) -> Iterator[str]:
    underlay = plane["underlay"]
    yield f"{plane['device']}: VNI {plane['vni']}, MAC {plane['mac']}, MTU {plane['mtu']}"
    yield f"  subnets    {', '.join(plane['subnets']) or 'none'}, of {', '.join(plane['networks'])}"
    public = "" if underlay["advertised"] == underlay["address"] else f", advertised as {underlay['advertised']}"
    yield (
        f"  underlay   {underlay['address']}{public}, UDP port {plane['port']}, {underlay['interface']}, "
        f"MTU {underlay['mtu']}, sources checked: {plane['source_check']}"
    )
    used = [_offload(name, got) for name, got in plane["offloads"].items() if name not in plane["offloads_off"]]
    yield f"  workers    {plane['workers']}, offloads: {', '.join(used) or 'none'}"
    for name, why in plane["offloads_off"].items():
        yield f"             {name} is off: {why}"
    done = plane["reconcile"]
    numbers = f"{done['passes']} passes, {sum(done['mended'].values())} changes made, {done['pending']} pending"
    yield f"  kernel     {numbers}, {sum(done['failed'].values())} refused, {done['failed_reads']} failed reads"


def _offload(name: str, got: bool | int) -> str:
    return name if got is True else f"{name} ({got} datagrams)"


def peers(answer: Answer) -> str:
    """`vxlandctl peers`."""
    if not answer:
        return "no peers"
    head, traffic = ["SUBNET", "VTEP", "MAC", "DEVICE", "AGE#"], "traffic" in answer[0]
    if traffic:
        head += ["ENCAP#", "BYTES#", "DECAP#", "BYTES#"]
    return table(head, (_peer(peer, traffic) for peer in answer))


def _peer(peer: Answer, traffic: bool) -> list[str]:
    row = [peer["subnet"], peer["vtep"], peer["mac"], peer["device"], span(peer["age_s"])]
    if traffic:
        row += [str(peer["traffic"][way][what]) for way in ("encap", "decap") for what in ("frames", "bytes")]
    return row
