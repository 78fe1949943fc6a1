"""Subjects of the measurement: each joins the pods of node 1 and node 2 in a fresh lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import yaml

from vxland.lab import shell, vtep
from vxland.lab.bench import ovs
from vxland.lab.bench.wires import OVERHEAD
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, OVERLAY, LabNode, other

BASELINE = "kernel"  # denominator of all ratios
BUSY_POLL_US = 50

Start: TypeAlias = Callable[[Lab, LabNode, int], None]
"""Set up one node at this underlay MTU."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One connection of the nodes. `missing()` says what the machine lacks."""

    name: str
    title: str
    starts: tuple[Start, Start]
    missing: Callable[[], str]

    def set_up(self, lab: Lab, underlay_mtu: int) -> None:
        """Set up both nodes, and wait until they are ready."""
        for node in NODES:
            self.start(lab, node, underlay_mtu)
        for node in vxland_nodes(lab):
            vtep.wait_ready(lab, node)

    def start(self, lab: Lab, node: LabNode, underlay_mtu: int) -> None:
        """Set up one node."""
        self.starts[node.number - 1](lab, node, underlay_mtu)


def vxland_nodes(lab: Lab) -> list[LabNode]:
    """Return the nodes on which vxland runs."""
    return [node for node in NODES if node.namespace in lab.processes]


def memory_pids(lab: Lab, node: LabNode) -> list[int]:
    """Return the daemons that the subject runs on a node."""
    return [process.pid for name, process in lab.processes.items() if name.startswith(node.namespace)]


def _plain(lab: Lab, node: LabNode, _mtu: int) -> None:
    """Route over the underlay itself."""
    shell.ip_batch(lab.namespace(node), [f"route add {other(node).subnet} via {other(node).underlay}"])


def _kernel(lab: Lab, node: LabNode, mtu: int) -> None:
    vtep.set_up(lab, node, "kernel")
    shell.ip_batch(lab.namespace(node), [f"link set {OVERLAY} mtu {mtu - OVERHEAD}"])


def _vxland(datapath: Mapping[str, object], lab: Lab, node: LabNode, _mtu: int, *, pure: bool = False) -> None:
    vtep.start_vxland(lab, node, vtep.config_of(lab, node) + yaml.safe_dump({"datapath": dict(datapath)}), pure=pure)


def _nothing_missing() -> str:
    return ""


def _tap_missing() -> str:
    return "" if shell.TUN.exists() else f"{shell.TUN} is missing"


def _gear_missing() -> str:
    """Return the reason if extension modules are missing: the daemon would run interpreted, and count as compiled."""
    built = any(Path(__file__).parents[2].glob("forwarding/pump.*.so"))
    return _tap_missing() if built else "its modules are not compiled (`make build`)"


_FAST: Start = partial(_vxland, {"fast_path": "auto"})
_DAEMON: Start = partial(_vxland, {"fast_path": "off"})
_BUSY_POLL: Start = partial(_vxland, {"fast_path": "off", "busy_poll_us": BUSY_POLL_US})
_TWO_WORKERS: Start = partial(_vxland, {"fast_path": "off", "workers": 2})
_INTERPRETED: Start = partial(_vxland, {"fast_path": "off"}, pure=True)

SUBJECTS = (
    Subject(BASELINE, "kernel vxlan", (_kernel, _kernel), _nothing_missing),
    Subject("vxland", "vxland", (_FAST, _FAST), _gear_missing),
    Subject("fast-path-off", "vxland, fast path off", (_DAEMON, _DAEMON), _gear_missing),
    Subject("to-kernel", "vxland to kernel vxlan", (_FAST, _kernel), _gear_missing),
    Subject("from-kernel", "kernel vxlan to vxland", (_kernel, _FAST), _gear_missing),
    Subject("busy-poll", f"off, busy polling {BUSY_POLL_US} us", (_BUSY_POLL, _BUSY_POLL), _gear_missing),
    Subject("two-workers", "off, 2 workers", (_TWO_WORKERS, _TWO_WORKERS), _gear_missing),
    Subject("interpreted", "off, interpreted", (_INTERPRETED, _INTERPRETED), _tap_missing),
    Subject("plain", "no overlay", (_plain, _plain), _nothing_missing),
    Subject("ovs", "Open vSwitch, userspace", (ovs.set_up, ovs.set_up), ovs.missing),
)
