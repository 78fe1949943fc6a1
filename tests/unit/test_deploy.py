"""deploy/ is flannel's manifest as far as it must be, asks for no more, and names things that exist."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import chart
from tools.release import IMAGE
from vxland import __version__
from vxland.cli import flanneld
from vxland.config import parse
from vxland.lab import cni
from vxland.model.lease import Subnet
from vxland.reconcile import subnet_env
from vxland.registry import net_conf

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BRIDGE = DEPLOY / "bin" / "vxland-cni-bridge"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kube-vxland.yml").read_text()))
NEW_CLUSTER: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kube-flannel-cfg.yml").read_text()))
FLANNELS = {  # what kube-flannel.yml of flannel 0.28 creates
    ("Namespace", "kube-flannel"),
    ("ClusterRole", "flannel"),
    ("ClusterRoleBinding", "flannel"),
    ("ServiceAccount", "flannel"),
    ("ConfigMap", "kube-flannel-cfg"),
    ("DaemonSet", "kube-flannel-ds"),
}
PATCHES: dict[str, dict[str, Any]] = {
    path.name: yaml.safe_load(path.read_text()) for path in DEPLOY.glob("*.patch.yml")
}
NETWORKS: list[Subnet] = [ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/48")]
SUBNETS: list[Subnet] = [ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64")]


def one(kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = (thing for thing in (*OBJECTS, *NEW_CLUSTER) if thing["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    """The DaemonSet's pod."""
    spec: dict[str, Any] = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container of a pod."""
    yield from spec.get("initContainers", [])
    yield from spec.get("containers", [])


def expressions(spec: dict[str, Any]) -> dict[str, str]:
    """The operator of each label that a pod's node affinity asks for."""
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return {asked["key"]: asked["operator"] for term in terms for asked in term["matchExpressions"]}


def names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Kind and name of each object."""
    return {(thing["kind"], thing["metadata"]["name"]) for thing in objects}


def test_nothing_of_flannels_is_overwritten() -> None:
    """`kubectl apply -f kube-vxland.yml` replaced the network of a cluster whose flannel had another one.

    The account and the rights are vxland's own too, so that flannel's can be deleted.
    """
    own = {(kind, "vxland") for kind in ("ClusterRole", "ClusterRoleBinding", "ServiceAccount")}
    assert names(OBJECTS) == own | {("DaemonSet", "kube-vxland-ds")}
    assert names(OBJECTS) & FLANNELS == set()
    assert pod()["serviceAccountName"] == "vxland"
    (subject,) = one("ClusterRoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "vxland", "namespace": "kube-flannel"}
    assert one("ClusterRoleBinding")["roleRef"]["name"] == "vxland"


def test_a_new_cluster_has_what_flannel_would_make() -> None:
    """The other file holds the namespace and the ConfigMap that the pods mount, and nothing else."""
    assert names(NEW_CLUSTER) == {("Namespace", "kube-flannel"), ("ConfigMap", "kube-flannel-cfg")}
    (mounted,) = (volume["configMap"]["name"] for volume in pod()["volumes"] if "configMap" in volume)
    assert mounted == one("ConfigMap")["metadata"]["name"]


def test_it_fits_flannel_in_kube_system() -> None:
    """With the `sed` of the file's first lines everything that has a namespace is in kube-system, as flannel was."""
    text = (DEPLOY / "kube-vxland.yml").read_text()
    (command,) = re.findall(r"^#   sed '(.*)' deploy/kube-vxland.yml", text, re.MULTILINE)
    moved = subprocess.run(("sed", command), input=text, check=True, capture_output=True, text=True).stdout
    objects = list(yaml.safe_load_all(moved))
    assert {thing["metadata"].get("namespace", "kube-system") for thing in objects} == {"kube-system"}
    assert [thing["subjects"][0]["namespace"] for thing in objects if "subjects" in thing] == ["kube-system"]


def test_rights_are_flannels() -> None:
    """The ClusterRole grants what flannel's does, but for pods, which nobody asks for."""
    granted = {
        (resource, verb)
        for rule in one("ClusterRole")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if rule["apiGroups"] == [""]
    }
    nodes = {("nodes", verb) for verb in ("get", "list", "watch")}
    assert granted == {*nodes, ("nodes/status", "patch")}
    assert [rule["apiGroups"] for rule in one("ClusterRole")["rules"]] == [[""]] * 2


def test_the_command_is_flannelds() -> None:
    """The container's command is understood, joins Kubernetes, masquerades, and answers where the probes ask."""
    (container,) = pod()["containers"]
    assert container["command"][:2] == ["vxland", "flanneld"]
    asked = flanneld.parse(container["command"][2:], {})
    assert (asked.settings.registry.kind, asked.settings.firewall.masquerade, asked.notes) == ("kube", True, ())
    listen = asked.settings.metrics.listen
    assert listen is not None
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"host": str(listen.address), "path": path, "port": listen.port}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert asked.settings.kube.net_conf.parent == Path(mounts["flannel-cfg"])
    assert asked.subnet_file.parent == Path(mounts["run"])


def test_privileges_are_the_least() -> None:
    """NET_ADMIN, NET_RAW and BPF for the daemon, nothing for the others, and never privileged."""
    added = {}
    for container in (*containers(pod()), *containers(PATCHES["cni-bridge.patch.yml"]["spec"]["template"]["spec"])):
        if "securityContext" not in container:  # what the patch changes of a container that is there
            continue
        context = container["securityContext"]
        assert not context.get("privileged")
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"]["drop"] == ["ALL"]
        added[container["name"]] = context["capabilities"].get("add", [])
    assert added == {"install-cni": [], "kube-vxland": ["NET_ADMIN", "NET_RAW", "BPF"], "cni-bridge": []}
    (tun,) = (volume["hostPath"] for volume in pod()["volumes"] if volume["name"] == "tun")
    assert tun == {"path": "/dev/net/tun", "type": "CharDevice"}


def test_no_node_is_both() -> None:
    """The label that vxland's DaemonSet asks for is the one that the patch keeps flannel's away from."""
    ours, theirs = expressions(pod()), expressions(PATCHES["keep-flannel-off.patch.yml"]["spec"]["template"]["spec"])
    assert ours == {"kubernetes.io/os": "In", "node.vxland/enabled": "Exists"}
    assert theirs == {"kubernetes.io/os": "In", "node.vxland/enabled": "DoesNotExist"}


def apart(spec: dict[str, Any]) -> dict[str, Any]:
    """The pods that a pod refuses to share a node with."""
    (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["namespaces"] == ["kube-flannel", "kube-system"]
    labels: dict[str, Any] = term["labelSelector"]["matchLabels"]
    return labels


def test_no_pod_starts_beside_flannels() -> None:
    """An upgrade of flannel takes the patch back: its pod came to a node where vxland runs, and took the device."""
    template = one("DaemonSet")["spec"]["template"]
    assert apart(pod()) == {"app": "flannel"}
    assert apart(PATCHES["keep-flannel-off.patch.yml"]["spec"]["template"]["spec"]) == {"app": "vxland"}
    assert template["metadata"]["labels"]["app"] == "vxland"


def test_it_is_not_evicted_and_not_starved() -> None:
    """No taint keeps it off or evicts it; half a CPU is its own beside busy pods, and nothing throttles it."""
    assert pod()["tolerations"] == [{"operator": "Exists"}]
    (container,) = pod()["containers"]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "100Mi"}}


def test_no_busy_node_loses_its_pod() -> None:
    """A container that does not answer at once is not killed: it has minutes, at its start and later.

    With 100 s in all, a node that was short of CPU lost vxland, and started it again at once.
    """
    (container,) = pod()["containers"]
    start, life = container["startupProbe"], container["livenessProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 180
    assert life["periodSeconds"] * life["failureThreshold"] >= 180


def test_a_rollout_fits_every_size() -> None:
    """One node after the other took a day in a cluster of 5,000; a percentage is one node in a small cluster."""
    strategy = one("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "2%"}}


def test_images_are_a_release_s() -> None:
    """Every container runs the image that a release publishes, and none is pulled where it is already there."""
    found = [*containers(pod()), *containers(PATCHES["cni-bridge.patch.yml"]["spec"]["template"]["spec"])]
    with_image = [container for container in found if "image" in container]
    assert len(with_image) == 3
    assert {(item["image"], item["imagePullPolicy"]) for item in with_image} == {
        (f"{IMAGE}:{__version__}", "IfNotPresent")
    }


def test_the_chart_knows_the_settings() -> None:
    """The ranges of the chart's `config` are those of the settings: `make manifests` writes them."""
    text = chart.SCHEMA.read_text()
    assert chart.schema(text) == text


def test_the_configmap_is_understood() -> None:
    """net-conf.json defines a vxlan network, and cni-conf.json is the conflist that lies beside."""
    data = one("ConfigMap")["data"]
    conf = net_conf.parse(data["net-conf.json"], "net-conf.json", pools=False)
    assert (conf.networks, conf.nftables) == ((ip_network("10.244.0.0/16"),), False)
    conflist = (DEPLOY / "10-flannel.conflist").read_text()
    assert json.loads(data["cni-conf.json"]) == json.loads(conflist)
    assert [plugin["type"] for plugin in json.loads(conflist)["plugins"]] == ["flannel", "portmap"]


def test_bridge_conflist_is_what_flannels_plugin_delegates(tmp_path: Path) -> None:
    """vxland-cni-bridge and the demo make the same of subnet.env."""
    env, target = tmp_path / "subnet.env", tmp_path / "10-flannel.conflist"
    text = subnet_env.render(NETWORKS[:1], SUBNETS[:1], 1450, ip_masq=True)
    env.write_text(text)
    subprocess.run([sys.executable, BRIDGE, env, target], check=True)
    written = json.loads(target.read_text())
    delegated: dict[str, Any] = cni.delegated(text, tmp_path)
    del delegated["ipam"]["dataDir"]
    named = {key: delegated.pop(key) for key in ("name", "cniVersion")}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    assert written == {**named, "plugins": [delegated, portmap]}
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".env"] == ["10-flannel.conflist"]


def test_bridge_conflist_in_dual_stack() -> None:
    """Each family has a range and a route of its own, and without flannel's masquerading the bridge does it."""
    lines = subnet_env.render(NETWORKS, SUBNETS, 1430, ip_masq=False).splitlines()
    made = runpy.run_path(str(BRIDGE))["conflist"](dict(line.split("=", 1) for line in lines))
    bridge = made["plugins"][0]
    assert (bridge["mtu"], bridge["ipMasq"]) == (1430, True)
    assert bridge["ipam"]["ranges"] == [[{"subnet": str(subnet)}] for subnet in SUBNETS]
    assert bridge["ipam"]["routes"] == [{"dst": str(network)} for network in NETWORKS]


@pytest.mark.parametrize(
    "text", ["", "FLANNEL_MTU=1450\n", "FLANNEL_SUBNET=x\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"]
)
def test_bridge_conflist_of_a_bad_file(tmp_path: Path, text: str) -> None:
    """A subnet.env that is not whole leaves the conflist that is there, with exit code 1 and the file's name."""
    env, target = tmp_path / "subnet.env", tmp_path / "10-flannel.conflist"
    env.write_text(text)
    target.write_text("before")
    done = subprocess.run([sys.executable, BRIDGE, env, target], capture_output=True, text=True, check=False)
    assert (done.returncode, target.read_text()) == (1, "before")
    assert str(env) in done.stderr


@pytest.mark.parametrize("name", ["etcd", "kubernetes"])
def test_the_guides_files_load(name: str) -> None:
    """The configuration file that a guide shows is one that vxland takes."""
    blocks = re.findall(r"(?:^    .*\n)+", (ROOT / "docs" / f"{name}.md").read_text(), re.MULTILINE)
    (block,) = (block for block in blocks if "registry:" in block)
    settings = parse(block)
    assert settings.registry.kind == {"etcd": "etcd", "kubernetes": "kube"}[name]
    assert settings.firewall.forward


@pytest.mark.parametrize("name", ["etcd", "kubernetes", "migrate-from-flannel"])
def test_the_guides_commands_are_flannelds(name: str) -> None:
    """Every `vxland flanneld` of a guide is a command line that it takes."""
    text = (ROOT / "docs" / f"{name}.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ +.*vxland flanneld (--.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        assert flanneld.parse(command.split(), {}).settings.firewall.masquerade
