"""Answers as text, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from vxland.model.text import shown

Answer = Any  # as JSON has it

_MAX_LEN = 4096  # of one text
DIRECTIONS = ("encap", "decap")
_MAX_PATHS = 10  # narrow paths listed one by one
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def fit(answer: Answer) -> Answer:
    """Return the answer without control characters: names and reasons come from stores, so from anybody."""
    return shown(answer, _MAX_LEN)


def span(seconds: float) -> str:
    """Return a length of time in its largest unit and the next: `3 h 12 min`."""
    left = int(seconds)
    words: list[str] = []
    for size, unit in _UNITS:
        if left >= size or words:
            words.append(f"{left // size} {unit}")
            left %= size
    return " ".join([*words, f"{left} s"][:2])


def look_at(remedy: str) -> str:
    """Return the line of a remedy below what happened; some begin with these words themselves."""
    return f"  look at  {remedy.removeprefix('look at ')}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with two blanks between columns; columns whose heading ends with `#` hold numbers."""
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


def readiness(answer: Answer) -> str:
    """`vxlandctl status --ready`."""
    return f"not ready: {answer['not_ready']}" if answer["not_ready"] else "ready"


def status(answer: Answer) -> str:
    """`vxlandctl status`."""
    return "\n".join(_status(answer))


def _status(answer: Answer) -> Iterator[str]:
    yield f"vxland {answer['version']}, {answer['gear']}, pid {answer['pid']}, up {span(answer['uptime_s'])}"
    yield f"  ready      {'no: ' + answer['not_ready'] if answer['not_ready'] else 'yes'}"
    for line in answer["troubles"]:
        yield f"             {line}"
    yield f"  process    {_process(answer['process'])}"
    if "cpu" in answer:  # an older daemon has none
        yield f"  cpu        {_cpu(answer['cpu'])}"
    registry = answer["registry"]
    readable = f"cannot be read: {registry['error']}" if registry["error"] else "readable"
    since = f" since {span(registry['for_s'])}" if registry["error"] and registry["for_s"] is not None else ""
    yield f"  registry   {registry['kind']}, leases of peers: {registry['leases']}, {readable}{since}"
    if registry.get("remembered"):
        yield f"             instead: {registry['remembered']}"
    for entry, why in registry["quarantined"].items():
        yield f"             quarantined: {entry}: {why}"
    if more := registry.get("quarantined_more"):  # an older daemon lists all
        yield f"             and {more} more that are quarantined"
    firewall = answer["firewall"]
    backend = f", in iptables-{firewall['iptables']}" if firewall.get("iptables") else ""
    state = f"{firewall['error'] or 'in force'}{backend}"
    yield f"  firewall   {state if firewall['wanted'] else 'no rules wanted'}"
    for plane in answer["planes"]:
        yield from _plane(plane)


def _process(process: Answer) -> str:
    held = process["capabilities"]
    may = ", ".join(held) or "no capability" if len(held) <= 4 else f"{len(held)} capabilities"
    more = "no" if process["no_new_privs"] else "may get"
    calls = "filtered" if process["seccomp"] else "not filtered"
    return f"user {process['user']}, {may}, {more} new privileges, system calls {calls}"


def _cpu(cpu: Answer) -> str:
    used = f"used {cpu['used_s']:.0f} s, waited {cpu['waited_s']:.0f} s for a CPU"
    if cpu["limit"] is None:
        return f"{used}; no limit"
    still = f"throttled for {cpu['throttled_s']:.0f} s, in {cpu['throttled_periods']} periods"
    return f"{used}; limited to {cpu['limit']:g} CPUs: {still}"


def _plane(plane: Answer) -> Iterator[str]:
    yield f"{plane['device']}: VNI {plane['vni']}, MAC {plane['mac']}, MTU {plane['mtu']}"
    yield f"  subnets    {', '.join(plane['subnets']) or 'none'}, of {', '.join(plane['networks'])}"
    yield from _underlay(plane)
    if (found := plane.get("input_filter", {})).get("kind", "off") != "off":
        done = "" if found["dropped"] is None else f", {found['dropped']} datagrams dropped"
        state = f"NOT in force: {found['error']}" if found["error"] else f"in force{done}"
        yield f"  filter     {found['kind']}, {state}"
    if (found := plane.get("forwarding", {})).get("unknown"):
        yield f"  forwarding firewall rules not known: {found['unknown']}"
    for problem in found.get("problems", ()):
        yield f"  forwarding IPv{problem['version']} of pods is lost, {problem['direction']}: {problem['cause']}"
        yield f"             look at: {problem['remedy']}"
    off = plane["offloads_off"]
    used = [_offload(name, got) for name, got in plane["offloads"].items() if got and name not in off]
    yield f"  workers    {plane['workers']}, offloads: {', '.join(used) or 'none'}"
    for name, why in off.items():
        yield f"             {name} is off: {why}"
    if "fast_path" in plane:  # an older daemon has none
        yield from _fast_path(plane["fast_path"])
    yield f"  peers      {_probes(plane['probes'])}"
    yield from _responder(plane)
    done = plane["reconcile"]
    numbers = f"{done['passes']} passes, {sum(done['mended'].values())} changes made, {done['pending']} pending"
    yield f"  kernel     {numbers}, {sum(done['failed'].values())} refused, {done['failed_reads']} failed reads"


def _responder(plane: Answer) -> Iterator[str]:
    if (responder := plane.get("responder")) and responder["off"]:  # an older daemon has none
        yield f"  responder  off: {responder['off']}"


def _underlay(plane: Answer) -> Iterator[str]:
    underlay = plane["underlay"]
    public = "" if underlay["advertised"] == underlay["address"] else f", advertised as {underlay['advertised']}"
    interface = underlay["interface"] or "inherited sockets"
    yield (
        f"  underlay   {underlay['address']}{public}, UDP port {plane['port']}, {interface}, "
        f"MTU {underlay['mtu']}, sources checked: {plane['source_check']}"
    )
    if why := underlay.get("unwatched"):
        yield f"             {why}"
    elif public:
        where = f"datagrams are received at {' and '.join(underlay.get('serves', []))}"
        away = "" if underlay["advertised"] in underlay.get("serves", []) else f"; {underlay['advertised']} is not here"
        yield f"             {where}{f'; {why}' if (why := underlay.get('unserved')) else away}"
    narrower = underlay["narrower"]
    for vtep, mtu in sorted(narrower.items())[:_MAX_PATHS]:
        yield f"             MTU {mtu} on the path to {vtep}"
    if disbelieved := underlay.get("disbelieved"):
        some = ", ".join(sorted(disbelieved)[:2])
        yield f"             ICMP about the path to {len(disbelieved)} VTEPs is not believed: vxlandctl peers; {some}"
    if len(narrower) > _MAX_PATHS:
        yield f"             and less than {underlay['mtu']} on the path to {len(narrower) - _MAX_PATHS} others"


def _fast_path(found: Answer) -> Iterator[str]:
    if not found["on"]:
        yield f"  fast path  off: {found['off']}"
        return
    superframes = ", superframes too" if found["superframes"] else "; the daemon sends superframes"
    diverted = "; a capture runs, so all frames go to the daemon" if found["diverted"] else ""
    yield f"  fast path  on{superframes}{diverted}"
    fill = ", ".join(f"{name} {count} of {found['entries_most'][name]}" for name, count in found["entries"].items())
    yield f"             entries: {fill}"


def _offload(name: str, got: bool | int) -> str:
    return name if got is True else f"{name} ({got} datagrams)"


def _probes(probes: Answer) -> str:
    if probes["off"]:
        return f"not pinged: {probes['off']}"
    words = [f"{probes[state]} {state}" for state in ("reachable", "unreachable", "unknown")]
    return ", ".join([*words, f"{probes['mtu_holes']} with an MTU hole"])


def peers(answer: Answer) -> str:
    """`vxlandctl peers`."""
    if not answer:
        return "no peers"
    return "\n".join([table(*peer_rows(answer)), *_causes(answer), *_paths(answer)])


def peer_rows(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows about peers; with pings and traffic if the daemon reports them."""
    head = ["SUBNET", "VTEP", "MAC", "DEVICE", "AGE#"]
    rows = [[peer["subnet"], peer["vtep"], peer["mac"], peer["device"], span(peer["age_s"])] for peer in answer]
    if has_nodes(answer):
        head.append("NODE")
        for row, peer in zip(rows, answer, strict=True):
            row.append(peer["node"] or "-")
    if answer and "probe" in answer[0]:
        head += ["STATE", "RTT#", "LOSS#", "MTU#"]
        for row, peer in zip(rows, answer, strict=True):
            row.extend(probe_words(peer["probe"]))
    if answer and "traffic" in answer[0]:
        for direction in DIRECTIONS:
            for what in ("frames", "bytes"):
                head.append(f"{direction} {what}#".upper())
                for row, peer in zip(rows, answer, strict=True):
                    row.append(str(peer["traffic"][direction][what]))
    return head, rows


def has_nodes(peers: Answer) -> bool:
    """Return whether the registry knows the name of any peer's node; an older daemon reports none."""
    return any(peer.get("node") for peer in peers)


def names(found: Mapping[str, str]) -> list[str]:
    """Return a line for each address that has a name."""
    return [f"names    {address} is {name}" for address, name in found.items()]


def probe_words(probe: Answer) -> tuple[str, str, str, str]:
    """Return state, round-trip time, loss, and MTU if packets of that size pass, of one peer."""
    if probe is None:
        return "-", "-", "-", "-"
    rtt = "-" if probe["rtt_smoothed_s"] is None else f"{probe['rtt_smoothed_s'] * 1e3:.3g} ms"
    loss = "-" if probe["loss"] is None else f"{probe['loss']:.0%}"
    mtu = {"passes": str(probe["mtu"]), "hole": f"<{probe['mtu']}", "unknown": "-"}[probe["full_mtu"]]
    return probe["state"], rtt, loss, mtu


def _causes(answer: Answer) -> Iterator[str]:
    """Yield problems with peers, and what to check."""
    for peer in answer:
        if (probe := peer.get("probe")) and (cause := probe["cause"]):
            yield ""
            yield f"{peer['subnet']} at {peer['vtep']}: {cause['word']}: {cause['happened']}"
            yield look_at(cause["remedy"])


def _paths(answer: Answer) -> Iterator[str]:
    """Yield paths that carry less than the interface, and ICMP errors that are not believed, once for each VTEP."""
    shown_vteps = set()
    for peer in answer:
        path = peer.get("path")
        if (
            not path
            or peer["vtep"] in shown_vteps
            or (path["mtu"] >= path["interface_mtu"] and path["disbelieved"] is None)
        ):
            continue
        shown_vteps.add(peer["vtep"])
        sources = {"icmp": "as an ICMP error of a router says", "route": "as its route or IPsec has it"}
        source = sources.get(path["source"], "as the interface does")
        yield ""
        yield f"the path to {peer['vtep']} carries {path['mtu']} bytes, {source}, since {span(path['for_s'])}"
        if path["disbelieved"] is not None:
            yield f"  ICMP says {path['disbelieved']} bytes, which is not believed: look for a forger"


def plan(answer: Answer) -> str:
    """`vxlandctl plan`: a script with the daemon's pending changes."""
    lines = []
    for device, commands in answer.items():
        lines += [f"# {device}: {f'{len(commands)} changes' if commands else 'nothing to change'}", *commands]
    return "\n".join(lines) or "# no device yet"


def trace(answer: Answer) -> str:
    """`vxlandctl trace`."""
    lines = [f"{step:<8} {what}" for step, what in answer["steps"]]
    if outer := answer["outer"]:
        src_port = "any" if outer["udp_src"] is None else outer["udp_src"]
        df = f", DF {'set' if outer['df'] else 'clear'}" if outer["version"] == 4 else ""
        checksum = "with a checksum" if outer["udp_checksum"] else "without a checksum"
        ip = f"IPv{outer['version']} {outer['src']} > {outer['dst']}, TTL {outer['ttl']}, TOS {outer['tos']:#04x}{df}"
        lines += [
            f"outer    {ip}, {outer['length']} bytes",
            f"         UDP {src_port} > {outer['udp_dst']}, {outer['udp_length']} bytes, {checksum}",
            f"         VXLAN flags {outer['vxlan_flags']:#04x}, VNI {outer['vni']}",
        ]
    if answer["remedy"]:
        lines.append(f"look at  {answer['remedy']}")
    return "\n".join([*names(answer["names"]), *lines, f"verdict  {answer['verdict']}"])


def drops(answer: list[Answer]) -> str:
    """`vxlandctl drops`."""
    rows = []
    for each in answer:
        at = datetime.fromtimestamp(each["time_ns"] / 1e9).astimezone().strftime("%H:%M:%S.%f")[:-3]
        rows.append([at, each["direction"], each["reason"], each["outer"] or "-", str(each["length"]), each["packet"]])
    looks = {each["reason"]: f"{each['reason']}: {each['happened']}; look at: {each['remedy']}" for each in answer}
    if not rows:
        return "nothing was dropped"
    found = {address: name for each in answer for address, name in each["names"].items()}
    heads = ["TIME", "DIR", "REASON", "PEER", "BYTES#", "FRAME"]
    return "\n".join([table(heads, rows), "", *names(found), *looks.values()])


def reload(answer: Answer) -> str:
    """`vxlandctl reload`."""
    refused = [f"{each['key']}: {each['value']!r}: {each['remedy']}" for each in answer["problems"]]
    return "\n".join(refused) or "reloaded"
