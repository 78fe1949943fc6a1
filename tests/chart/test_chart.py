"""Effects of the values of the Helm chart, as the real helm renders it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import (
    BESIDE_FLANNEL,
    DEPLOY,
    HELM,
    KUBECTL,
    ROOT,
    daemon,
    helm,
    objects,
    settings_of,
    template,
)
from tools import chart
from vxland import __version__
from vxland.registry import net_conf

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(not HELM.exists(), reason="helm is missing: make build/helm/helm"),
]


def test_lint() -> None:
    """`helm lint --strict` finds nothing, with the chart's values and with those of the manifest."""
    for words in ((), BESIDE_FLANNEL):
        done = subprocess.run((HELM, "lint", "--strict", chart.CHART, *words), capture_output=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_manifest_is_the_chart_s() -> None:
    """deploy/kube-vxland.yml is what `make manifests` makes of the chart."""
    assert chart.MANIFEST.read_text() == chart.manifest(str(HELM))


def test_the_patch_is_the_chart_s() -> None:
    """kube-vxland.yml with cni-bridge.patch.yml is the chart with `cni.conflist: bridge`, but for an idle container."""
    change = DEPLOY / "cni-bridge.patch.yml"
    patch = (KUBECTL, "patch", "--local", "--filename=-", "--patch-file", change, "--output=json")
    (before,) = (each for each in yaml.safe_load_all(chart.MANIFEST.read_text()) if each["kind"] == "DaemonSet")
    done = subprocess.run(
        (*patch, "--output=json"), input=json.dumps(before), check=True, text=True, capture_output=True
    )
    patched = json.loads(done.stdout)["spec"]["template"]["spec"]
    (idle,) = patched.pop("initContainers")
    assert idle["command"] == ["true"]
    rendered = template(*BESIDE_FLANNEL, "--set", "cni.conflist=bridge")["spec"]
    assert sorted(patched["containers"], key=lambda each: str(each["name"])) == sorted(
        rendered.pop("containers"), key=lambda each: str(each["name"])
    )
    assert {key: value for key, value in patched.items() if key != "containers"} == rendered


def test_the_network_is_that_of_the_manifests() -> None:
    """The chart's ConfigMap means the same as that of kube-flannel-cfg.yml, to vxland and to flannel's plugin."""
    rendered = objects()["ConfigMap", "kube-flannel-cfg"]["data"]
    (plain,) = (
        each["data"]
        for each in yaml.safe_load_all((DEPLOY / "kube-flannel-cfg.yml").read_text())
        if each["kind"] == "ConfigMap"
    )
    ours, theirs = (net_conf.parse(data["net-conf.json"], "net-conf.json", pools=False) for data in (rendered, plain))
    assert ours == theirs
    assert json.loads(rendered["cni-conf.json"]) == json.loads(plain["cni-conf.json"])


def test_a_new_cluster_needs_nothing_else(tmp_path: Path) -> None:
    """With the chart's own values every Linux node runs vxland, with the network, and a conflist for usual plugins."""
    made = objects()
    assert {name for kind, name in made if kind == "ConfigMap"} == {"kube-flannel-cfg", "kube-vxland-cfg"}
    spec = made["DaemonSet", "kube-vxland-ds"]["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [each["key"] for term in terms for each in term["matchExpressions"]] == ["kubernetes.io/os"]
    assert [each["name"] for each in spec["containers"]] == ["kube-vxland", "cni-bridge"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    settings = settings_of(made, tmp_path)
    assert (settings.registry.kind, settings.datapath.fast_path, str(settings.security.source_check)) == (
        "kube",
        "auto",
        "vtep",
    )
    assert str(settings.metrics.listen) == "127.0.0.1:8082"


def test_network_values() -> None:
    """`network`, `backend` and `nftables` become net-conf.json."""
    words = ("network.ipv4=10.42.0.0/16", "network.ipv6=fd00:10:42::/56", "backend.vni=4096", "backend.port=4789")
    more = ("backend.mtu=9000", "backend.directRouting=true", "nftables=true")
    data = objects("--set", ",".join((*words, *more)))["ConfigMap", "kube-flannel-cfg"]["data"]
    conf = net_conf.parse(data["net-conf.json"], "net-conf.json", pools=False)
    assert conf.networks == (ip_network("10.42.0.0/16"), ip_network("fd00:10:42::/56"))
    assert (conf.vni, conf.port, conf.mtu, conf.direct_routing, conf.nftables) == (4096, 4789, 9000, True, True)
    data = objects("--set", "network.ipv4=,network.ipv6=fd00:10:42::/56")["ConfigMap", "kube-flannel-cfg"]["data"]
    conf = net_conf.parse(data["net-conf.json"], "net-conf.json", pools=False)
    assert conf.networks == (ip_network("fd00:10:42::/56"),)


def test_placement_and_image_values() -> None:
    """Image, placement, resources and rollout are those of the values."""
    digest = f"sha256:{'0' * 64}"
    words = [f"image.digest={digest}", "image.repository=registry.example:5000/vxland", "image.pullSecrets[0]=key"]
    words += ["priorityClassName=system-cluster-critical", "nodeSelector.kind=edge", "nodeLabel=node.vxland/enabled"]
    words += ["resources.requests.cpu=2", "updateStrategy.maxUnavailable=3", "podAnnotations.seen=yes"]
    tolerations = '[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]'
    made = objects("--set", ",".join(words), "--set-json", f"tolerations={tolerations}")["DaemonSet", "kube-vxland-ds"]
    pod = made["spec"]["template"]
    spec = pod["spec"]
    assert {each["image"] for each in spec["containers"]} == {f"registry.example:5000/vxland@{digest}"}
    assert (spec["imagePullSecrets"], spec["nodeSelector"]) == ([{"name": "key"}], {"kind": "edge"})
    assert (spec["priorityClassName"], spec["tolerations"]) == ("system-cluster-critical", json.loads(tolerations))
    assert daemon(spec)["resources"]["requests"] == {"cpu": "2", "memory": "100Mi"}
    assert made["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 3}
    assert pod["metadata"]["annotations"]["seen"] == "yes"
    assert "node.vxland/enabled" in str(spec["affinity"]["nodeAffinity"])
    by_hand = objects("--set", "updateStrategy.type=OnDelete")["DaemonSet", "kube-vxland-ds"]["spec"]
    assert by_hand["updateStrategy"] == {"type": "OnDelete"}


def test_metrics_values(tmp_path: Path) -> None:
    """Metrics are served where the values say, and the probes ask on the node's own address."""
    words = ("--set", "metrics.address=0.0.0.0,metrics.port=9472")
    assert str(settings_of(objects(*words), tmp_path).metrics.listen) == "0.0.0.0:9472"
    container = daemon(template(*words)["spec"])
    assert container["ports"] == [{"name": "metrics", "containerPort": 9472}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert (container[probe]["httpGet"]["host"], container[probe]["httpGet"]["port"]) == ("127.0.0.1", 9472)


def test_cni_values() -> None:
    """`cni.conflist` decides who writes the conflist, and `none` leaves the folder alone."""
    beside = template("--set", "cni.conflist=flannel,cni.confDir=/var/lib/cni-conf")["spec"]
    assert [each["name"] for each in beside["initContainers"]] == ["install-cni"]
    assert {each["name"]: each for each in beside["volumes"]}["cni"]["hostPath"]["path"] == "/var/lib/cni-conf"
    alone = template("--set", "cni.conflist=none")["spec"]
    assert "initContainers" not in alone
    assert [each["name"] for each in alone["containers"]] == ["kube-vxland"]
    assert "cni" not in {each["name"] for each in alone["volumes"]}


@pytest.mark.parametrize("off", ["off", "false"])
def test_without_fast_path_there_is_no_capability_for_it(tmp_path: Path, off: str) -> None:
    """`fast_path: off`, which YAML may read as false, takes the capability BPF from the pod."""
    words = ("--set", f"config.datapath.fast_path={off}")
    assert daemon(template(*words)["spec"])["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]
    assert settings_of(objects(*words), tmp_path).datapath.fast_path == "off"
    assert "BPF" in daemon(template()["spec"])["securityContext"]["capabilities"]["add"]


def test_settings_reach_the_daemon(tmp_path: Path) -> None:
    """`config` and `extraArgs` are the daemon's settings."""
    words = ["config.security.source_check=strict", "config.probe.interval_s=30", "config.datapath.workers=2"]
    words += ["extraArgs[0]=--iface=eth1"]
    settings = settings_of(objects("--set", ",".join(words)), tmp_path)
    assert (str(settings.security.source_check), settings.probe.interval_s) == ("strict", 30)
    assert (settings.datapath.workers, settings.underlay.interface) == (2, ("eth1",))


def test_names_of_pods(tmp_path: Path) -> None:
    """`config.kube.pod_names` reaches the daemon, together with the right to list pods, which nobody else has."""
    for words, wanted, verbs in (((), False, []), (("--set", "config.kube.pod_names=true"), True, [["list"]])):
        made = objects(*words)
        assert settings_of(made, tmp_path).kube.pod_names is wanted
        rules = made["ClusterRole", "vxland"]["rules"]
        assert [rule["verbs"] for rule in rules if rule["resources"] == ["pods"]] == verbs
        names = [
            each["name"] for each in daemon(made["DaemonSet", "kube-vxland-ds"]["spec"]["template"]["spec"])["env"]
        ]
        assert "NODE_NAME" in names  # else it would have to get its own pod


def test_a_changed_configuration_replaces_the_pods() -> None:
    """The daemon reads both files at its start only, so a change of either changes the pods, and nothing else does."""
    plain = template()["metadata"]
    assert template("--set", "updateStrategy.maxUnavailable=1")["metadata"] == plain
    assert template("--set", "config.security.source_check=strict")["metadata"] != plain
    assert template("--set", "backend.vni=2")["metadata"] != plain


def commands(page: str) -> list[list[str]]:
    """Return the arguments after the chart of every helm command of a page."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"\bhelm (?:install|upgrade|template) vxland deploy/helm/vxland ([^`>\n]*)", text)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{name}.md" for name in ("k3s", "kubeadm", "kubernetes", "migrate-from-flannel"))]
)
def test_the_guides_commands_render(page: str) -> None:
    """Every helm command of a guide has values that the chart accepts; one shows what is refused."""
    found = commands(page)
    assert found
    only_installing = {"--wait", "--reuse-values", "--take-ownership", "--force-conflicts"}
    for words in found:
        files = [str(ROOT / word) if word.startswith("deploy/") else word for word in words]
        done = helm(*(word for word in files if word not in only_installing))
        refused = re.search(r"got ([\d,]+), want ([\d,]+)", done.stderr)
        assert done.returncode == 0 or (refused and refused[0] in (ROOT / page).read_text()), done.stderr


def test_the_chart_is_of_this_version() -> None:
    """The chart's version and its image's are vxland's."""
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)
