"""Pods attached as a kubelet does it: Debian's CNI plugins, fed what flannel's plugin makes of subnet.env.

flannel's plugin adds no interface itself. It reads subnet.env and calls the bridge plugin, which makes cni0 and a veth
pair and asks host-local for an address. Then portmap is called with the result (reference/flannel.md section 5, and
the conflist of the walk-through). The demo does the same, one plugin after the other, inside the node's namespace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from vxland.lab import shell
from vxland.lab.namespaces import Lab
from vxland.lab.topology import BRIDGE, NETWORK, OVERLAY_MTU, Kind, LabNode, Pod
from vxland.lab.vtep import subnet_file
from vxland.model.errors import StartError
from vxland.model.lease import Mac
from vxland.reconcile import subnet_env

PLUGINS = Path("/usr/lib/cni")
PACKAGES = {str(PLUGINS / name): "containernetworking-plugins" for name in ("bridge", "host-local", "portmap")}

NAME, VERSION = "cbr0", "0.3.1"  # as in the walk-through's conflist


@dataclass(frozen=True, slots=True)
class Attached:
    """A pod as its plugins report it, and as it is."""

    node: LabNode
    pod: Pod
    mtu: int
    addresses: tuple[str, ...]
    gateway: str
    """The next hop of its default route; empty if it has none."""

    hairpin: bool
    """True if its port of cni0 is in hairpin mode, as flannel's conflist requests."""


@dataclass(frozen=True, slots=True)
class Network:
    """Results of `--cni`: subnet.env of node 1, the bridge plugin's configuration made from it, and the pods."""

    subnet_env: str
    delegated: Mapping[str, object]
    pods: tuple[Attached, ...]


def delegated(env: str, state: Path) -> dict[str, object]:
    """Return what flannel's plugin passes to the bridge plugin, from the text of subnet.env.

    `state` is host-local's directory. KeyError for a missing line. (flannel: cni-plugin flannel_linux.go, doCmdAdd)
    """
    found = dict(line.split("=", 1) for line in env.splitlines())
    subnet = IPv4Interface(found["FLANNEL_SUBNET"]).network
    return {
        "cniVersion": VERSION,
        "name": NAME,
        "type": "bridge",
        "hairpinMode": True,
        "isDefaultGateway": True,
        "isGateway": True,
        "ipMasq": found["FLANNEL_IPMASQ"] != "true",
        "mtu": int(found["FLANNEL_MTU"]),
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": str(subnet)}]],
            "routes": [{"dst": found["FLANNEL_NETWORK"]}],
            "dataDir": str(state),  # flannel's plugin sets none: the state is then in /var/lib/cni/networks
        },
    }


def portmap(result: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration of the conflist's second plugin; no pod here asks for a port of its node."""
    second = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": VERSION, "name": NAME, **second, "prevResult": result}


def attach(lab: Lab, kinds: tuple[Kind, Kind]) -> Network:
    """Run CNI ADD for every pod; `lab.nodes` then has the addresses, MACs and ports that the plugins chose."""
    for node, kind in zip(lab.nodes, kinds, strict=True):
        if kind == "kernel":  # no flanneld runs here to write it
            text = subnet_env.render([NETWORK], [node.subnet], OVERLAY_MTU, ip_masq=True)
            subnet_env.write(subnet_file(lab, node), text)
    left, right = lab.nodes
    lab.nodes = (_attach_node(lab, left), _attach_node(lab, right))
    pods = tuple(_look(lab, node, pod) for node in lab.nodes for pod in node.pods)
    return Network(subnet_file(lab, left).read_text(), _conf(lab, left), pods)


def detach(lab: Lab) -> dict[str, str]:
    """Run CNI DEL for every pod, last plugin first. Return what is still there, by pod; empty if all is gone."""
    left = {}
    for node in lab.nodes:
        for pod in node.pods:
            conf, result = _conf(lab, node), json.loads(_result(lab, pod).read_text())
            _call(lab, node, pod, "DEL", portmap(result))
            _call(lab, node, pod, "DEL", conf)
            port = shell.attempt(("ip", "-n", lab.namespace(node), "link", "show", pod.port)).returncode == 0
            held = _state(lab, node) / NAME / str(pod.address)  # host-local keeps a file for each address in use
            left[pod.title] = ", ".join([*([pod.port] if port else []), *([held.name] if held.exists() else [])])
    return left


def _attach_node(lab: Lab, node: LabNode) -> LabNode:
    """Run CNI ADD for the pods of one node; return the node with the resulting addresses."""
    conf = _conf(lab, node)
    bridge_mac = node.bridge_mac
    pods = []
    for pod in node.pods:
        result = _call(lab, node, pod, "ADD", conf)
        result = _call(lab, node, pod, "ADD", portmap(result))
        _result(lab, pod).write_text(json.dumps(result))
        bridge, port, eth0 = result["interfaces"]  # in this order, since the bridge plugin's first version
        bridge_mac = Mac.parse(bridge["mac"])
        address = IPv4Interface(result["ips"][0]["address"]).ip
        pods.append(replace(pod, address=address, mac=Mac.parse(eth0["mac"]), port=port["name"]))
    return replace(node, bridge_mac=bridge_mac, pods=(pods[0], pods[1]))


def _conf(lab: Lab, node: LabNode) -> dict[str, object]:
    return delegated(subnet_file(lab, node).read_text(), _state(lab, node))


def _state(lab: Lab, node: LabNode) -> Path:
    return lab.dir / f"{node.namespace}.cni"


def _result(lab: Lab, pod: Pod) -> Path:
    """Return the file that keeps the result of ADD for DEL, as a container runtime does."""
    return lab.dir / f"{pod.namespace}.cni.json"


def _call(lab: Lab, node: LabNode, pod: Pod, command: str, conf: Mapping[str, object]) -> dict[str, Any]:
    """Run one plugin: CNI specification, section 2. Return its result, empty after DEL; StartError with its error."""
    plugin = str(PLUGINS / str(conf["type"]))
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": lab.namespace(pod),
        "CNI_NETNS": str(shell.NETNS_DIR / lab.namespace(pod)),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
    }
    settings = (f"{name}={value}" for name, value in environment.items())
    argv = shell.exec_in(lab.namespace(node), "env", *settings, plugin)
    done = shell.attempt(argv, stdin=json.dumps(conf))
    if done.returncode != 0:
        error = " ".join((done.stdout or done.stderr).split())  # a plugin reports errors as JSON on stdout
        raise StartError(f"{plugin} failed to {command} {pod.title}: {error}", "the plugin says what it lacks")
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def _look(lab: Lab, node: LabNode, pod: Pod) -> Attached:
    """Read the pod's interface from inside, and its port of cni0."""
    inside = lab.namespace(pod)
    (eth0,) = json.loads(shell.run("ip", "-n", inside, "-json", "addr", "show", "dev", "eth0"))
    routes = json.loads(shell.run("ip", "-n", inside, "-json", "route", "show", "default"))
    ports = json.loads(shell.run("ip", "-n", lab.namespace(node), "-json", "-d", "link", "show", "master", BRIDGE))
    slaves = [port["linkinfo"]["info_slave_data"] for port in ports if port.get("ifname") == pod.port]
    return Attached(
        node=node,
        pod=pod,
        mtu=eth0["mtu"],
        addresses=tuple(f"{addr['local']}/{addr['prefixlen']}" for addr in eth0["addr_info"]),
        gateway=next((route.get("gateway", "") for route in routes), ""),
        hairpin=any(slave.get("hairpin", False) for slave in slaves),
    )
