"""Output of the demo: each step of the walk-through for a reader, or one JSON object for a program."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from vxland.lab.cni import PLUGINS, Network
from vxland.lab.demo.capture import Seen
from vxland.lab.demo.checks import Check
from vxland.lab.demo.dissect import headers, hexdump
from vxland.lab.demo.drawing import drawing
from vxland.lab.demo.evidence import Across, DemoEvidence, DeviceFacts, FullSize, Hop, SameNode
from vxland.lab.demo.layout import ETHERTYPES
from vxland.lab.etcd import CONFIG_KEY, PREFIX, StoredLease
from vxland.lab.etcd import PORT as PORT_OF_ETCD
from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, NODES, OVERLAY, POD_A, POD_B, POD_C, UNDERLAY, UNDERLAY_MTU, Kind, LabNode, Pod
from vxland.lab.traffic import Ping, Throughput
from vxland.lab.vtep import subnet_file

_LINK_FACTS = (
    r"mtu \d+|link/ether \S+|vxlan id \d+|local \S+|dstport \d+|nolearning|udpcsum|tun type tap|(?m:^veth|^bridge)"
)
# Queue and offload sizes and a bridge's timers are of no use to the walk-through's reader.
_LINK_NOISE = re.compile(r" (promiscuity|addrgenmode|stp_state) .*")


def as_json(evidence: DemoEvidence, checks: Sequence[Check]) -> dict[str, object]:
    """Return the demo's JSON object."""
    across = evidence.across
    return {
        "passed": all(check.passed for check in checks),
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in checks],
        "captures": [_hop_json(hop, one) for hop, one in zip(across.walked, across.requests(), strict=False)],
        "iperf": round(evidence.there.gbit_s, 3),
        "iperf_reverse": round(evidence.back.gbit_s, 3),
        "same_node": [_hop_json(evidence.same.bridge, None), _hop_json(evidence.same.overlay, None)],
        "nodes": list(evidence.kinds),
        "pods": [_pod_json(node, pod) for node in evidence.nodes for pod in node.pods],
        "registry": "static" if evidence.leases is None else "etcd",
        "leases": [{"key": one.key, "value": one.value} for one in evidence.leases or () if one.key != CONFIG_KEY],
        "cni": evidence.network is not None,
    }


def _pod_json(node: LabNode, pod: Pod) -> dict[str, object]:
    return {"pod": pod.title, "node": node.title, "address": str(pod.address), "mac": str(pod.mac), "port": pod.port}


def _hop_json(hop: Hop, one: Seen | None) -> dict[str, object]:
    found: dict[str, object] = {"node": hop.title, "device": hop.device, "packets": len(hop.of_ping)}
    if one:
        found["packet"] = one.packet.as_json() | {"hex": one.frame.hex()}
    return found


class Report:
    """The terminal output of the demo; each method prints one step."""

    def __init__(self, console: Console, lab: Lab) -> None:
        self.console = console
        self.lab = lab
        self._sections = 0

    def topology(self, kinds: tuple[Kind, Kind]) -> None:
        """Print the drawing of the topology."""
        self.console.print()
        self.console.print(Text(" vxland demo: two nodes, four pods, one VXLAN", "bold"))
        self.console.print()
        self.console.print(drawing(self.lab, kinds))

    def devices(self, devices: Sequence[DeviceFacts]) -> None:
        """Print `ip -d link` of node 1's three devices, and of node 2's VTEP to compare."""
        self._section("The devices of a node")
        for device in devices:
            if device.node is self.lab.nodes[0] or device.name == OVERLAY:
                self._typed(f"ip -n {self.lab.namespace(device.node)} -d link show {device.name}")
                self._output(_link(device.text))
        self.console.print()
        self._say(
            f"{UNDERLAY} is the uplink of the node, {BRIDGE} the bridge of its pods, and {OVERLAY} the VTEP:"
            f" a packet routed into it leaves as VXLAN on {UNDERLAY}."
        )

    def leases(self, leases: Sequence[StoredLease]) -> None:
        """Print the contents of etcd after both nodes have joined."""
        self._section("The leases in etcd")
        node = self.lab.nodes[0]
        inside, client = self.lab.namespace(node), f"etcdctl --endpoints={node.underlay}:{PORT_OF_ETCD}"
        self._typed(f"ip netns exec {inside} {client} get --prefix {PREFIX}/")
        for record in leases:
            text = Text(f"    {record.key}\n    {record.value}", "dim")
            text.highlight_regex(r"subnets/\S+|(?<=PublicIP\":)\"[^\"]+\"|(?<=VtepMAC\":)\"[^\"]+\"", "bold not dim")
            self.console.print(text, soft_wrap=True)  # can be copied
        self.console.print()
        self._say(
            "One key per node: the subnet that it leases, and the VTEP that leads there. Where vxland runs, the key was"
            " reserved: vxland found it by its address, took subnet and MAC from it, and completed the value."
        )

    def network(self, network: Network) -> None:
        """Print how the CNI plugins attached the pods."""
        self._section("The pods, attached by CNI plugins")
        self._typed(f"cat {subnet_file(self.lab, self.lab.nodes[0])}")
        self._output(Text(network.subnet_env.rstrip(), "dim"))
        self.console.print()
        self._say(f"flannel's plugin makes this configuration of it, for the bridge plugin ({PLUGINS}/bridge):")
        self.console.print()
        self._output(Text(json.dumps(network.delegated), "dim"))
        self.console.print()
        self._say(f"The bridge plugin made {BRIDGE} and the veth pairs, host-local chose the addresses:")
        self.console.print()
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for one in network.pods:
            where = f"{one.pod.port} of {one.node.title}"
            table.add_row(one.pod.title, ", ".join(one.addresses), str(one.pod.mac), where)
        self.console.print(_indented(table, 4))

    def same_node(self, same: SameNode) -> None:
        """Print the ping between pods of one node."""
        self._section(f"One node: {POD_A.title} pings {POD_B.title}")
        self._ping(same.ping)
        for hop in (same.bridge, same.overlay):
            self.console.print(Text.assemble(("  captured on ", ""), (f"{hop.device:<9}", "bold"), f" {_count(hop)}"))
        self.console.print()
        first = next(iter(same.bridge.of_ping), None)
        if first:
            self._hop(same.bridge, first)
        self._say(f"Both pods are ports of one bridge. The packets never see {OVERLAY}.")

    def across(self, across: Across) -> None:
        """Print the ping between pods of two nodes, the same packet at each hop."""
        self._section(f"Two nodes: {POD_A.title} pings {POD_C.title}")
        self._ping(across.ping)
        requests, replies = across.requests(), across.replies()
        for hop, one in zip(across.walked, requests, strict=False):
            if one:
                self._hop(hop, one)
        reply = replies[2]
        if reply:
            self._say(f"The reply on {UNDERLAY}, between the same VTEPs in the other direction:")
            self.console.print()
            self.console.print(_indented(headers(reply.packet), 4))
            self.console.print()
        self._say("The same echo request, and the reply to it, at every device on its route (µs since the first):")
        self.console.print()
        self.console.print(_indented(_journey(across.hops, requests, replies), 2))
        self.console.print()
        self._say(
            f"Node 1 routes it from {BRIDGE} into {OVERLAY} (TTL 64 to 63), there it becomes the payload of a UDP "
            f"datagram between the nodes, and node 2 routes it on (TTL 63 to 62). The ping shows the reply's: ttl=62."
        )

    def throughput(self, full: FullSize, there: Throughput, back: Throughput) -> None:
        """Print the full-size packets, and TCP."""
        self._section("Full-size packets, and TCP")
        self._ping(full.ping)
        self._say(
            f"VXLAN adds 50 bytes to each packet: on {UNDERLAY} it fills the MTU of {UNDERLAY_MTU}, unfragmented."
        )
        self.console.print()
        target = self.lab.nodes[1].pods[0].address
        self._typed(f"ip netns exec {self.lab.namespace(POD_A)} iperf3 -c {target}      (then with -R)")
        for left, right, tcp in ((POD_A, POD_C, there), (POD_C, POD_A, back)):
            rate = Text(f"{tcp.gbit_s:.2f} Gbit/s", "bold") if not tcp.error else Text(tcp.error, "red")
            line = Text.assemble(
                f"  {left.title} > {right.title}  ", rate, (f"   {tcp.retransmits} retransmits", "dim")
            )
            self.console.print(line)

    def checks(self, checks: Sequence[Check]) -> None:
        """Print the closing table."""
        self._section("Checks")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for check in checks:
            mark = Text("passed", "green") if check.passed else Text("FAILED", "bold red")
            table.add_row(mark, check.name, Text(check.detail, "dim" if check.passed else "red"))
        self.console.print(_indented(table, 2))
        failed = sum(not check.passed for check in checks)
        verdict = f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed"
        self.console.print()
        self.console.print(Text(f"  {verdict}", "bold red" if failed else "bold green"))

    def kept(self, script: Path) -> None:
        """Print how to enter the nodes that `--keep` left running, their processes, and how to remove them."""
        self._section("Kept, as you asked")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        rooms: list[LabNode | Pod] = [room for node in NODES for room in (node, *node.pods)]
        for of in rooms:
            table.add_row(f"enter {of.title}", f"ip netns exec {self.lab.namespace(of)} sh")
        for node in NODES:
            if process := self.lab.processes.get(node.namespace):
                table.add_row(f"{node.title}: vxland", f"process {process.pid}, log {self.lab.log(node.namespace)}")
        if process := self.lab.processes.get("etcd"):
            table.add_row(f"{NODES[0].title}: etcd", f"process {process.pid}, log {self.lab.log('etcd')}")
        table.add_row("remove it all", f"sh {script}")
        self.console.print(_indented(table, 2))

    def _section(self, title: str) -> None:
        self._sections += 1
        self.console.print()
        self.console.print(Rule(Text(f"{self._sections}. {title}", "bold"), align="left", style="dim"))

    def _typed(self, command: str) -> None:
        self.console.print(Text.assemble(("  $ ", "dim"), (command, "bold")), soft_wrap=True)

    def _output(self, text: Text) -> None:
        self.console.print(_indented(text, 4))

    def _say(self, words: str) -> None:
        self.console.print(_indented(Text(words, "italic"), 2))

    def _ping(self, ping: Ping) -> None:
        self._typed(f"ip netns exec {self.lab.namespace(POD_A)} {ping.command}")
        text = Text(ping.output, "dim")
        text.highlight_regex(r"ttl=\d+|\d+% packet loss", "bold not dim")
        self._output(text)
        self.console.print()

    def _hop(self, hop: Hop, one: Seen) -> None:
        self.console.print(Text.assemble("  ", (f"{hop.device} of {hop.title}", "bold"), f", {len(one.frame)} bytes"))
        self.console.print(_indented(headers(one.packet), 4))
        self.console.print()
        self.console.print(_indented(hexdump(one.frame, one.packet), 4))
        self.console.print()


def _link(text: str) -> Text:
    """Return the output of `ip -d link` with the walk-through's facts in bold, without queue and offload sizes."""
    lines = (_LINK_NOISE.sub(" …", line.strip()) for line in text.splitlines())
    found = Text("\n".join(lines), "dim")
    found.highlight_regex(_LINK_FACTS, "bold not dim")
    return found


def _count(hop: Hop) -> str:
    """Return the number of packets at a hop, in words."""
    if not hop.seen:
        return "nothing at all"
    kinds = [one.packet.ethernet.ethertype for one in hop.seen if one.packet.ethernet]
    arps = sum(ETHERTYPES.get(kind) == "ARP" for kind in kinds)
    rest = len(hop.seen) - len(hop.of_ping) - arps
    counted = {"echo packets": len(hop.of_ping), "ARP": arps, "of other kinds": rest}
    return ", ".join(f"{number} {kind}" for kind, number in counted.items() if number)


def _journey(hops: Sequence[Hop], requests: Sequence[Seen | None], replies: Sequence[Seen | None]) -> Table:
    """Return a table of each hop: TTL and time of request and reply."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("where", "device", "request", "µs", "reply", "µs", ""):
        table.add_column(name, justify="right" if name == "µs" else "left")
    zero = next((one.at_ns for one in requests if one), 0)
    for hop, request, reply in zip(hops, requests, replies, strict=True):
        form = "inside VXLAN" if request and request.packet.inner else ""
        table.add_row(hop.title, hop.device, *_sighting(request, zero, "↓"), *_sighting(reply, zero, "↑"), form)
    return table


def _sighting(one: Seen | None, zero: int, arrow: str) -> tuple[str | Text, str]:
    if one is None or one.packet.innermost.ipv4 is None:
        return Text("not seen", "red"), ""
    return f"{arrow} ttl {one.packet.innermost.ipv4.ttl}", f"{(one.at_ns - zero) / 1000:.0f}"


def _indented(what: RenderableType, columns: int) -> Padding:
    return Padding(what, (0, 0, 0, columns), expand=False)
