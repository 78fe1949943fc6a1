"""Subjects of the measurement: each connects node 1 and node 2 in a fresh lab, and names the address to send to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from vxland.lab import shell, vtep
from vxland.lab.bench import ovs
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NODES, OVERLAY, UNDERLAY, UNDERLAY_MTU, LabNode

BASELINE = "kernel"  # denominator of all ratios
OVERHEAD = 50  # bytes of outer IPv4, UDP and VXLAN and of inner Ethernet
BUSY_POLL_US = 50
TUNNEL_OFFLOADS = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")


@dataclass(frozen=True, slots=True)
class Subject:
    """One connection of the nodes. `set_up(lab, underlay_mtu)` makes it; `missing()` says what the machine lacks."""

    name: str
    title: str
    set_up: Callable[[Lab, int], None]
    address: Callable[[LabNode], IPv4Address]
    missing: Callable[[], str]


def set_underlay_mtu(lab: Lab, mtu: int) -> None:
    """Give the underlay of a fresh lab another MTU than the demo's."""
    if mtu != UNDERLAY_MTU:
        for node in NODES:
            shell.ip_batch(lab.namespace(node), [f"link set {UNDERLAY} mtu {mtu}"])


def memory_pids(lab: Lab, node: LabNode) -> list[int]:
    """Return the daemons that the subject runs on a node."""
    return [process.pid for name, process in lab.processes.items() if name.startswith(node.namespace)]


def _plain(_lab: Lab, _mtu: int) -> None:
    """Use the underlay itself."""


def _kernel(lab: Lab, mtu: int) -> None:
    for node in NODES:
        _kernel_node(lab, node, mtu)


def _kernel_node(lab: Lab, node: LabNode, mtu: int) -> None:
    vtep.set_up(lab, node, "kernel")
    shell.ip_batch(lab.namespace(node), [f"link set {OVERLAY} mtu {mtu - OVERHEAD}"])


def _kernel_no_tnl(lab: Lab, mtu: int) -> None:
    features = [word for feature in TUNNEL_OFFLOADS for word in (feature, "off")]
    for node in NODES:
        shell.run(*shell.exec_in(lab.namespace(node), "ethtool", "-K", UNDERLAY, *features, "gro", "on"))
    _kernel(lab, mtu)


def _vxland(lab: Lab, _mtu: int) -> None:
    _vxland_nodes(lab, pure=False)


def _interpreted(lab: Lab, _mtu: int) -> None:
    _vxland_nodes(lab, pure=True)


def _busy_poll(lab: Lab, _mtu: int) -> None:
    _vxland_nodes(lab, pure=False, busy_poll_us=BUSY_POLL_US)


def _two_workers(lab: Lab, _mtu: int) -> None:
    _vxland_nodes(lab, pure=False, workers=2)


def _vxland_nodes(lab: Lab, *, pure: bool, **datapath: int) -> None:
    for node in NODES:  # start both, then wait for both
        config = vtep.config_of(lab, node) + (yaml.safe_dump({"datapath": datapath}) if datapath else "")
        vtep.start_vxland(lab, node, config, pure=pure)
    for node in NODES:
        vtep.wait_ready(lab, node)


def _to_kernel(lab: Lab, mtu: int) -> None:
    left, right = NODES
    vtep.start_vxland(lab, left, vtep.config_of(lab, left), pure=False)
    _kernel_node(lab, right, mtu)
    vtep.wait_ready(lab, left)


def _from_kernel(lab: Lab, mtu: int) -> None:
    left, right = NODES
    vtep.start_vxland(lab, right, vtep.config_of(lab, right), pure=False)
    _kernel_node(lab, left, mtu)
    vtep.wait_ready(lab, right)


def _nothing_missing() -> str:
    return ""


def _tap_missing() -> str:
    return "" if shell.TUN.exists() else f"{shell.TUN} is missing"


def _gear_missing() -> str:
    """Return the reason if extension modules are missing: the daemon would run interpreted, and count as compiled."""
    built = any(Path(__file__).parents[2].glob("forwarding/pump.*.so"))
    return _tap_missing() if built else "its modules are not compiled (`make build`)"


def _ethtool_missing() -> str:
    return "" if shutil.which("ethtool") else "it needs ethtool (Debian: ethtool)"


def _underlay(node: LabNode) -> IPv4Address:
    return node.underlay


def _overlay(node: LabNode) -> IPv4Address:
    return node.vtep_address


SUBJECTS = (
    Subject(BASELINE, "kernel vxlan", _kernel, _overlay, _nothing_missing),
    Subject("vxland", "vxland, compiled", _vxland, _overlay, _gear_missing),
    Subject("busy-poll", f"vxland, busy polling {BUSY_POLL_US} us", _busy_poll, _overlay, _gear_missing),
    Subject("two-workers", "vxland, 2 workers", _two_workers, _overlay, _gear_missing),
    Subject("kernel-no-tnl", "kernel vxlan, no tunnel offload below", _kernel_no_tnl, _overlay, _ethtool_missing),
    Subject("interpreted", "vxland, interpreted", _interpreted, _overlay, _tap_missing),
    Subject("plain", "plain veth, no overlay", _plain, _underlay, _nothing_missing),
    Subject("ovs", "Open vSwitch, userspace", ovs.set_up, ovs.address, ovs.missing),
    Subject("to-kernel", "vxland to kernel vxlan", _to_kernel, _overlay, _gear_missing),
    Subject("from-kernel", "kernel vxlan to vxland", _from_kernel, _overlay, _gear_missing),
)
