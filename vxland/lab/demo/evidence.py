"""Evidence gathered from the lab, step by step; `checks` judges it and `report` prints it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from vxland.lab import shell, traffic
from vxland.lab.cni import Network
from vxland.lab.demo.capture import Seen, Tcpdump
from vxland.lab.demo.layout import ECHO_REPLY, ECHO_REQUEST
from vxland.lab.etcd import StoredLease
from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, NODES, OVERLAY, OVERLAY_MTU, UNDERLAY, Kind, LabNode, Pod
from vxland.lab.traffic import Ping, Throughput

FULL_SIZE = OVERLAY_MTU - 28  # ICMP payload that fills the MTU: less 20 of IPv4 and 8 of ICMP


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device of a node: the output of `ip -d link`, and the facts in it."""

    node: LabNode
    name: str
    text: str
    up: bool = False
    mtu: int = 0
    mac: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hop:
    """Frames captured on one device during one ping."""

    title: str
    device: str
    seen: tuple[Seen, ...]

    @property
    def of_ping(self) -> list[Seen]:
        """The echo requests and replies, encapsulated or bare."""
        return [one for one in self.seen if self._kind(one) in {ECHO_REQUEST, ECHO_REPLY}]

    def find(self, kind: int, ident: int, seq: int) -> Seen | None:
        """Return the first frame with this echo message."""
        for one in self.seen:
            icmp = one.packet.innermost.icmp
            if icmp and (icmp.kind, icmp.ident, icmp.seq) == (kind, ident, seq):
                return one
        return None

    @staticmethod
    def _kind(one: Seen) -> int | None:
        icmp = one.packet.innermost.icmp
        return icmp.kind if icmp else None


@dataclass(frozen=True, slots=True)
class SameNode:
    """The ping from pod A to pod B on the same node."""

    ping: Ping
    bridge: Hop
    overlay: Hop


@dataclass(frozen=True, slots=True)
class Across:
    """The ping from pod A to pod C on the other node, with captures of one echo message on every device."""

    ping: Ping
    hops: tuple[Hop, ...]
    ident: int
    seq: int

    @property
    def walked(self) -> tuple[Hop, ...]:
        """The three hops of the walk-through: cni0, flannel.1 and ens33 of node 1."""
        return self.hops[:3]

    def requests(self) -> list[Seen | None]:
        """The followed echo request at each hop, None where it was not captured."""
        return [hop.find(ECHO_REQUEST, self.ident, self.seq) for hop in self.hops]

    def replies(self) -> list[Seen | None]:
        """The reply at each hop, in the order of `hops`: the last hop sees it first."""
        return [hop.find(ECHO_REPLY, self.ident, self.seq) for hop in self.hops]


@dataclass(frozen=True, slots=True)
class FullSize:
    """The ping from pod A to pod C with packets that fill the overlay's MTU and have DF set."""

    ping: Ping
    underlay: Hop


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """The kernel's counters for flannel.1 of one node."""

    node: LabNode
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """A vxland process at the end of the walk-through; `code` is None while it runs."""

    title: str
    pid: int
    code: int | None
    log_tail: str


@dataclass(frozen=True, slots=True)
class DemoEvidence:
    """All evidence, in the order of the walk-through."""

    kinds: tuple[Kind, Kind]
    devices: tuple[DeviceFacts, ...]
    same: SameNode
    across: Across
    full: FullSize
    there: Throughput
    back: Throughput
    before: tuple[DeviceCounters, ...]
    after: tuple[DeviceCounters, ...]
    daemons: tuple[DaemonFacts, ...]
    nodes: tuple[LabNode, LabNode] = NODES
    leases: tuple[StoredLease, ...] | None = None  # with `--registry etcd`
    network: Network | None = None  # with `--cni`
    detached: Mapping[str, str] = field(default_factory=dict)  # what CNI DEL left, by pod


def inspect_devices(lab: Lab) -> tuple[DeviceFacts, ...]:
    """Read the three devices of both nodes."""
    return tuple(_device(lab, node, name) for node in lab.nodes for name in (UNDERLAY, OVERLAY, BRIDGE))


def _device(lab: Lab, node: LabNode, name: str) -> DeviceFacts:
    shown = shell.attempt(("ip", "-n", lab.namespace(node), "-d", "link", "show", name))
    if shown.returncode != 0:
        return DeviceFacts(node, name, shown.stderr.strip())
    (facts,) = json.loads(shell.run("ip", "-n", lab.namespace(node), "-json", "addr", "show", "dev", name))
    return DeviceFacts(
        node=node,
        name=name,
        text=shown.stdout.rstrip(),
        up="UP" in facts["flags"],
        mtu=facts["mtu"],
        mac=facts["address"],
        addresses=tuple(f"{addr['local']}/{addr['prefixlen']}" for addr in facts["addr_info"]),
    )


def ping_same_node(lab: Lab) -> SameNode:
    """Ping from pod A to pod B, with captures on cni0 and flannel.1 of their node."""
    node = lab.nodes[0]
    source, target = node.pods
    with _capturing(lab, (node, BRIDGE), (node, OVERLAY)) as hops:
        ping = traffic.ping(lab, source, target.address)
        return SameNode(ping, *hops())


def ping_across(lab: Lab) -> Across:
    """Ping from pod A to pod C, with captures on every device after pod A."""
    here, there = lab.nodes
    source, target = here.pods[0], there.pods[0]
    places = ((here, BRIDGE), (here, OVERLAY), (here, UNDERLAY), (there, OVERLAY), (there, BRIDGE), (target, "eth0"))
    with _capturing(lab, *places) as hops:
        ping = traffic.ping(lab, source, target.address)
        found = tuple(hops())
    echoes = [one.packet.innermost.icmp for one in found[0].of_ping]
    last = max((echo for echo in echoes if echo), key=lambda echo: echo.seq, default=None)
    return Across(ping, found, last.ident if last else 0, last.seq if last else 0)


def ping_full_size(lab: Lab) -> FullSize:
    """Ping from pod A to pod C with full-size packets, with a capture on the underlay."""
    here, there = lab.nodes
    with _capturing(lab, (here, UNDERLAY)) as hops:
        ping = traffic.ping(lab, here.pods[0], there.pods[0].address, "-M", "do", "-s", str(FULL_SIZE))
        return FullSize(ping, *hops())


def count(lab: Lab) -> tuple[DeviceCounters, ...]:
    """Read the counters of both flannel.1."""
    return tuple(_counters(lab, node) for node in lab.nodes)


def _counters(lab: Lab, node: LabNode) -> DeviceCounters:
    shown = shell.run("ip", "-n", lab.namespace(node), "-json", "-s", "link", "show", "dev", OVERLAY)
    counted = json.loads(shown)[0]["stats64"]
    rx, tx = counted["rx"], counted["tx"]
    return DeviceCounters(node, rx["packets"], rx["bytes"], tx["packets"], tx["bytes"])


def inspect_daemons(lab: Lab) -> tuple[DaemonFacts, ...]:
    """Check the processes that must run until the end."""
    return tuple(
        DaemonFacts(node.title, process.pid, process.poll(), lab.log_tail(node.namespace))
        for node in lab.nodes
        if (process := lab.processes.get(node.namespace))
    )


@contextmanager
def _capturing(lab: Lab, *places: tuple[LabNode | Pod, str]) -> Iterator[Callable[[], list[Hop]]]:
    """Capture at each place while the block runs; yields a function that returns the hops so far."""
    with ExitStack() as stack:
        captures = [(of.title, stack.enter_context(Tcpdump(lab.namespace(of), device))) for of, device in places]
        yield lambda: [Hop(title, capture.device, tuple(capture.drain())) for title, capture in captures]
