"""Open vSwitch's userspace datapath (`datapath_type=netdev`) as an overlay: one database and one switch per node.

    br-int  10.245.0.<node>/24, port vx0: vxlan to the other node's br-phy
    br-phy  the underlay address, port ens33

Both run in the node's namespace on files of the lab, separate from any Open vSwitch of the machine.
"""

from __future__ import annotations

import os
import shutil
import time
from ipaddress import IPv4Address
from pathlib import Path

from vxland.lab import shell
from vxland.lab.bench.wires import OVERHEAD
from vxland.lab.namespaces import Lab
from vxland.lab.topology import PORT, UNDERLAY, VNI, LabNode, other
from vxland.model.errors import StartError

READY_S = 15.0
_PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl")
_BRIDGE, _PHYSICAL = "br-int", "br-phy"


def missing() -> str:
    """Return the reason why Open vSwitch cannot run here; empty if it can."""
    if any(shutil.which(program) is None for program in _PROGRAMS):
        return "not installed (Debian: openvswitch-switch)"
    return "" if _schema().exists() else f"its database schema {_schema()} is missing"


def _address(node: LabNode) -> IPv4Address:
    """Return the node's address in this overlay."""
    return IPv4Address("10.245.0.0") + node.number


def set_up(lab: Lab, node: LabNode, underlay_mtu: int) -> None:
    """Start the node's switch, join it to the other, and route to the pods there. StartError if it does not start."""
    _start(lab, node)
    _configure(lab, node, underlay_mtu)


def _schema() -> Path:
    return Path(os.environ.get("OVS_PKGDATADIR", "/usr/share/openvswitch")) / "vswitch.ovsschema"


def _start(lab: Lab, node: LabNode) -> None:
    home = lab.dir / f"{node.namespace}-ovs"
    home.mkdir()
    env = {**os.environ, "OVS_RUNDIR": str(home), "OVS_LOGDIR": str(home), "OVS_DBDIR": str(home)}
    database, remote = home / "conf.db", home / "db.sock"
    shell.run("ovsdb-tool", "create", str(database), str(_schema()))
    server = ("ovsdb-server", str(database), f"--remote=punix:{remote}", f"--unixctl={home}/db.ctl", "--no-chdir")
    _await(lab, lab.start(f"{node.namespace}-ovsdb", node, server, env).pid, remote)
    switch = ("ovs-vswitchd", f"unix:{remote}", f"--unixctl={home}/switch.ctl", "--no-chdir")
    _configure_db(lab, node, "--no-wait", "init")
    _await(lab, lab.start(f"{node.namespace}-vswitchd", node, switch, env).pid, home / "switch.ctl")


def _await(lab: Lab, pid: int, path: Path) -> None:
    """Return once the program has made its socket."""
    end = time.monotonic() + READY_S
    while not path.exists():
        name, process = next((name, process) for name, process in lab.processes.items() if process.pid == pid)
        if process.poll() is not None or time.monotonic() > end:
            cause = f"{name} does not start: {lab.log_tail(name, 3)}"
            raise StartError(cause, "leave it out with --subject")
        time.sleep(0.02)


def _configure_db(lab: Lab, node: LabNode, *words: str) -> None:
    shell.run("ovs-vsctl", f"--db=unix:{lab.dir / f'{node.namespace}-ovs' / 'db.sock'}", "--timeout=10", *words)


def _configure(lab: Lab, node: LabNode, underlay_mtu: int) -> None:
    mtu = underlay_mtu - OVERHEAD
    userspace = ("datapath_type=netdev", "fail_mode=standalone")
    _configure_db(
        lab,
        node,
        *("add-br", _PHYSICAL, "--", "set", "bridge", _PHYSICAL, *userspace),
        *(f"other-config:hwaddr={node.underlay_mac}", "--", "add-port", _PHYSICAL, UNDERLAY),
        *("--", "add-br", _BRIDGE, "--", "set", "bridge", _BRIDGE, *userspace),
        *(f"other-config:hwaddr={node.vtep_mac}", "--", "add-port", _BRIDGE, "vx0", "--", "set", "interface", "vx0"),
        *("type=vxlan", f"options:remote_ip={other(node).underlay}", f"options:key={VNI}", f"options:dst_port={PORT}"),
        *("options:csum=true", "--", "set", "interface", _PHYSICAL, f"mtu_request={underlay_mtu}"),
        *("--", "set", "interface", _BRIDGE, f"mtu_request={mtu}"),
    )
    shell.ip_batch(
        lab.namespace(node),
        [
            f"addr flush dev {UNDERLAY}",
            f"link set {_PHYSICAL} up",
            f"addr add {node.underlay}/24 brd + dev {_PHYSICAL}",
            f"link set {_BRIDGE} up",
            f"addr add {_address(node)}/24 brd + dev {_BRIDGE}",
            f"route add {other(node).subnet} via {_address(other(node))}",
        ],
    )
