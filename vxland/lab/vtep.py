"""flannel.1 on a node: vxland as a separate process, or the kernel's vxlan device as flannel sets it up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import NETWORK, OVERLAY, OVERLAY_MTU, PORT, UNDERLAY, VNI, Kind, LabNode, other
from vxland.model.errors import StartError

READY_S = 10.0
DECIDED_S = 5.0
LOG_TAIL = 15  # lines of a failed daemon's log that an error quotes

_CONFIG = """\
# {title} of the walk-through, as `vxland demo` runs it
overlay:
  network: {network}
  subnet: {node.subnet}
  vni: {vni}
  port: {port}
  device: {device}
  mac: "{node.vtep_mac}"
underlay:
  interface: {underlay}
  address: {node.underlay}
registry:
  kind: static
  peers:
    - {{subnet: {peer.subnet}, vtep: {peer.underlay}, mac: "{peer.vtep_mac}"}}
control: {{socket: {socket}}}
metrics: {{listen: ""}}
probe: {{interval_s: 0}}  # the captures show only the walk-through's packets
"""

_EVERY_HOP = 'datapath: {fast_path: "off"}  # a capture on each device shows every packet of the walk-through\n'
_MASQUERADE = "firewall: {masquerade: true}\n"  # flanneld's --ip-masq; the CNI plugins then do not masquerade

# Settings from a service manager or a flannel DaemonSet are for this process, not for the two daemons.
_NOT_INHERITED = ("VXLAND_", "FLANNELD_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")


def set_up(lab: Lab, node: LabNode, kind: Kind, *, etcd: str = "", masquerade: bool = False) -> None:
    """Make flannel.1 of this kind on the node. vxland's needs a moment; `wait_ready` waits for it.

    `etcd`: its URL; vxland then starts as flanneld would. `masquerade` sets it in vxland's configuration file. The
    fast path is off: a capture on flannel.1 shows no frame that a program has taken there.
    """
    if kind == "kernel":
        _set_up_kernel(lab, node)
    elif etcd:
        start_flanneld(lab, node, etcd, _EVERY_HOP)
    else:
        start_vxland(lab, node, config_of(lab, node) + _EVERY_HOP + (_MASQUERADE if masquerade else ""))


def _set_up_kernel(lab: Lab, node: LabNode) -> None:
    """Set up the device as flanneld does, attribute by attribute: reference/flannel.md sections 4.1 and 4.2."""
    inside, peer = lab.namespace(node), other(node)
    try:
        shell.run(
            *("ip", "-n", inside, "link", "add", OVERLAY, "address", str(node.vtep_mac), "mtu", str(OVERLAY_MTU)),
            *("type", "vxlan", "id", str(VNI), "local", str(node.underlay), "dev", UNDERLAY),
            *("dstport", str(PORT), "nolearning", "ttl", "auto", "udpcsum"),
        )
    except StartError as exc:
        cause = f"this kernel cannot make a vxlan device: {exc.cause}"
        raise StartError(cause, "leave out `--peer kernel`: vxland needs no vxlan device") from exc
    gateway = peer.vtep_address
    shell.ip_batch(
        inside,
        [
            f"addr add {node.vtep_address}/32 dev {OVERLAY}",
            f"link set {OVERLAY} up",
            f"neigh replace {gateway} lladdr {peer.vtep_mac} dev {OVERLAY} nud permanent",
            f"route replace {peer.subnet} via {gateway} dev {OVERLAY} onlink",
        ],
    )
    fdb = ("fdb", "replace", str(peer.vtep_mac), "dev", OVERLAY, "dst", str(peer.underlay), "self", "permanent")
    shell.run("bridge", "-n", inside, *fdb)


def config_of(lab: Lab, node: LabNode) -> str:
    """Return the configuration file for `vxland run` on this node."""
    return _CONFIG.format(
        title=node.title.capitalize(),
        node=node,
        peer=other(node),
        network=NETWORK,
        vni=VNI,
        port=PORT,
        device=OVERLAY,
        underlay=UNDERLAY,
        socket=control_socket(lab, node),
    )


def subnet_file(lab: Lab, node: LabNode) -> Path:
    """Return the path of the node's subnet.env."""
    return lab.dir / f"{node.namespace}.subnet.env"


def start_vxland(lab: Lab, node: LabNode, settings: str, *, pure: bool | None = None) -> None:
    """Start `vxland run` with these settings; `pure` selects its gear, by default that of this process."""
    config = lab.dir / f"{node.namespace}.yaml"
    config.write_text(settings)
    _start(lab, node, ("run", "-c", str(config), "--subnet-file", str(subnet_file(lab, node))), pure)


def start_flanneld(lab: Lab, node: LabNode, endpoint: str, settings: str = "", *, pure: bool | None = None) -> None:
    """Start `vxland flanneld` on the node with the flags of a flanneld in an etcd cluster, and settings beside them."""
    flags = [f"--etcd-endpoints={endpoint}", f"--iface={UNDERLAY}", "--ip-masq"]
    if settings:
        config = lab.dir / f"{node.namespace}.yaml"
        config.write_text(settings)
        flags.append(f"--vxland-config={config}")
    _start(lab, node, ("flanneld", *flags, f"--subnet-file={subnet_file(lab, node)}"), pure)


def start_kube(lab: Lab, node: LabNode, kubeconfig: Path, net_conf: Path, name: str, settings: str) -> None:
    """Start `vxland flanneld` on the node as in a pod of flannel's DaemonSet on the Node `name`; and settings."""
    config = lab.dir / f"{node.namespace}.yaml"
    config.write_text(settings)
    flags = ("--kube-subnet-mgr", f"--kubeconfig-file={kubeconfig}", f"--net-config-path={net_conf}", "--ip-masq")
    more = (f"--iface={UNDERLAY}", f"--vxland-config={config}", f"--subnet-file={subnet_file(lab, node)}")
    _start(lab, node, ("flanneld", *flags, *more), pure=False, NODE_NAME=name)


def _start(lab: Lab, node: LabNode, arguments: Sequence[str], pure: bool | None, **more: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)} | more
    env["STATE_DIRECTORY"] = str(lab.dir / f"{node.namespace}.state")  # nothing outside the lab changes
    env["VXLAND_PURE"] = os.environ.get("VXLAND_PURE", "") if pure is None else str(int(pure))
    package = str(Path(__file__).parents[2])  # the same vxland as this process, installed or not
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (package, env.get("PYTHONPATH"))))
    lab.start(node.namespace, node, (*shell.PYTHON, "-m", "vxland", *arguments), env, service=True)


def stats(lab: Lab, node: LabNode) -> Any:  # noqa: ANN401  parsed JSON
    """Return the output of `vxlandctl stats` on the node, by direction; StartError if it does not answer."""
    return _asked(lab, node, "stats")


def status(lab: Lab, node: LabNode) -> Any:  # noqa: ANN401  parsed JSON
    """Return the output of `vxlandctl status` on the node; StartError if it does not answer."""
    return _asked(lab, node, "status")


def fast_path(lab: Lab, node: LabNode) -> str:
    """Return "on" or "off: REASON" for the fast path of the node, once it is decided. StartError without an answer."""
    end = time.monotonic() + DECIDED_S
    while "fast_path_o" not in lab.log(node.namespace).read_text() and time.monotonic() < end:
        time.sleep(0.05)  # until the event fast_path_on or fast_path_off
    found = status(lab, node)["planes"][0]["fast_path"]
    return "on" if found["on"] else f"off: {found['off']}"


def control_socket(lab: Lab, node: LabNode) -> Path:
    """Return the path of the node's control socket."""
    return lab.dir / f"{node.namespace}.sock"


def _asked(lab: Lab, node: LabNode, question: str) -> Any:  # noqa: ANN401  parsed JSON
    path = str(control_socket(lab, node))
    done = shell.attempt((*shell.PYTHON, "-m", "vxland.ctl", "--socket", path, question, "--json"))
    if done.returncode:
        raise StartError(f"vxlandctl: {done.stderr.strip()}", "run `vxland demo` to see whether a node answers")
    return json.loads(done.stdout)


def wait_ready(lab: Lab, node: LabNode) -> None:
    """Return once flannel.1 is up with its address and its route, and vxland has written subnet.env.

    StartError with the end of the log if that does not happen in time.
    """
    process = lab.processes.get(node.namespace)
    end = time.monotonic() + READY_S
    while missing := _missing(lab, node):
        if process is not None and process.poll() is not None:
            raise _failure(lab, node, f"ended with exit code {process.returncode}")
        if time.monotonic() > end:
            raise _failure(lab, node, f"is still missing {missing} after {READY_S:.0f} s")
        time.sleep(0.05)


def _missing(lab: Lab, node: LabNode) -> str:
    """Return what flannel.1 still lacks to carry packets to the other node; empty if nothing."""
    inside = lab.namespace(node)
    links = _parsed(shell.attempt(("ip", "-n", inside, "-json", "addr", "show", "dev", OVERLAY)).stdout)
    routes = _parsed(shell.attempt(("ip", "-n", inside, "-json", "route", "show", "dev", OVERLAY)).stdout)
    subnet = str(other(node).subnet)
    if not links:
        return OVERLAY
    if not {"UP", "LOWER_UP"} <= set(links[0]["flags"]):
        return f"{OVERLAY} in state UP"
    if all(addr["local"] != str(node.vtep_address) for addr in links[0]["addr_info"]):
        return f"the address {node.vtep_address} on {OVERLAY}"
    if all(route["dst"] != subnet for route in routes):
        return f"a route to {subnet} on {OVERLAY}"
    return "" if node.namespace not in lab.processes or subnet_file(lab, node).exists() else "subnet.env"


def _failure(lab: Lab, node: LabNode, what: str) -> StartError:
    words = lab.log_tail(node.namespace, LOG_TAIL) if node.namespace in lab.processes else ""
    return StartError(f"vxland on {node.title} {what}", f"its last log lines:\n{words or '(none)'}")


def _parsed(text: str) -> list[dict[str, Any]]:
    """Return the objects of `ip -json` without the empty ones, which stand for omitted links."""
    return [found for found in json.loads(text or "[]") if found]
