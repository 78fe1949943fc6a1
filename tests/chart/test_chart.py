"""The Helm chart, rendered by the real helm: what its values do, and that a value out of range is refused by name."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.registry import realkube
from tools import chart
from vxland import __version__
from vxland.cli import flanneld
from vxland.config import Settings
from vxland.registry import net_conf

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HELM, KUBECTL = ROOT / "build" / "helm" / "helm", ROOT / "build" / "helm" / "kubectl"
VALUES: dict[str, Any] = yaml.safe_load((chart.CHART / "values.yaml").read_text())
BESIDE_FLANNEL = ("--values", str(chart.VALUES))

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(not HELM.exists(), reason="helm is missing: make build/helm/helm"),
]


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` of the chart with these arguments."""
    command = (str(HELM), "template", "vxland", str(chart.CHART), "--namespace", "kube-flannel", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def objects(*words: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rendered objects by kind and name."""
    done = helm(*words)
    assert done.returncode == 0, done.stderr
    found = [thing for thing in yaml.safe_load_all(done.stdout) if thing]
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in found}


def template(*words: str) -> dict[str, Any]:
    """Return the pods' template."""
    made: dict[str, Any] = objects(*words)["DaemonSet", "kube-vxland-ds"]["spec"]["template"]
    return made


def daemon(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return vxland's own container of a pod."""
    found: dict[str, Any]
    (found,) = (each for each in spec["containers"] if each["name"] == "kube-vxland")
    return found


def settings_of(made: Mapping[tuple[str, str], dict[str, Any]], scratch: Path) -> Settings:
    """Return the settings of the daemon of rendered objects: of its command, and of the file that it names."""
    command = daemon(made["DaemonSet", "kube-vxland-ds"]["spec"]["template"]["spec"])["command"]
    assert {type(word) for word in command} == {str}
    file = scratch / "vxland.yaml"
    if ("ConfigMap", "kube-vxland-cfg") in made:
        file.write_text(made["ConfigMap", "kube-vxland-cfg"]["data"]["vxland.yaml"])
    there = "--vxland-config=/etc/vxland/vxland.yaml"
    return flanneld.parse([f"--vxland-config={file}" if word == there else word for word in command[2:]], {}).settings


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


OUT_OF_RANGE = (
    ("network.ipv4=10.244.0.0", "'/network/ipv4'"),
    ("network.ipv4=10.244.0.256/16", "'/network/ipv4'"),
    ("network.ipv4=10.244.0.0/31", "'/network/ipv4'"),
    ("network.ipv6=fd00::1::/64", "'/network/ipv6'"),
    ("network.ipv6=10.244.0.0/16", "'/network/ipv6'"),
    ("network.ipv4=224.0.0.0/16", "'/network/ipv4'"),
    ("network.ipv4=127.0.0.0/8", "'/network/ipv4'"),
    ("network.ipv6=fe80::/56", "'/network/ipv6'"),
    ("network.ipv6=ff05::/56", "'/network/ipv6'"),
    ("network.ipv4=", "network.ipv4, network.ipv6: both are empty"),
    ("network.IPv4=10.244.0.0/16", "'IPv4' not allowed"),
    ("backend.type=host-gw", "'/backend/type'"),
    ("backend.vni=16777216", "'/backend/vni'"),
    ("backend.vni=-1", "'/backend/vni'"),
    ("backend.vni=one", "'/backend/vni'"),
    ("backend.port=0", "'/backend/port'"),
    ("backend.port=65536", "'/backend/port'"),
    ("backend.mtu=65536", "'/backend/mtu'"),
    ("backend.mtu=117", "backend.mtu: 117: write the underlay's MTU, 118 or more"),
    ("network.ipv6=fd00::/56,backend.mtu=1349", "backend.mtu: 1349: write the underlay's MTU, 1350 or more"),
    ("backend.directRouting=on", "'/backend/directRouting'"),
    ("backend=null", "'backend'"),
    ("nftables=1", "'/nftables'"),
    ("configMap.create=null", "'create'"),
    ("configMap.create=no", "'/configMap/create'"),
    ("nodeLabel=node.vxland/enabled=true", "'/nodeLabel'"),
    ("nodeLabel=-node/enabled", "'/nodeLabel'"),
    ("flannelNamespaces=null", "'flannelNamespaces'"),
    ("flannelNamespaces[0]=Flannel", "'/flannelNamespaces/0'"),
    ("image.repository=Vxland", "'/image/repository'"),
    ("image.repository=ghcr.io/vxland/vxland:0.1.0", "'/image/repository'"),
    ("image.repository=https://ghcr.io/vxland/vxland", "'/image/repository'"),
    ("image.tag=a b", "'/image/tag'"),
    ("image.digest=sha256:12", "'/image/digest'"),
    ("image.pullPolicy=Sometimes", "'/image/pullPolicy'"),
    ("image.pullSecrets[0]=A B", "'/image/pullSecrets/0'"),
    ("cni.conflist=calico", "'/cni/conflist'"),
    ("cni.confDir=etc/cni", "'/cni/confDir'"),
    ("cni.confDir=/etc/../cni", "'/cni/confDir'"),
    ("config.datapath.fast_path=yes", "'/config/datapath/fast_path'"),
    ("config.datapath.workers=17", "'/config/datapath/workers'"),
    ("config.datapath.workers=many", "'/config/datapath/workers'"),
    ("config.datapath.busy_poll_us=1001", "'/config/datapath/busy_poll_us'"),
    ("config.security.source_check=all", "'/config/security/source_check'"),
    ("config.security.sourceCheck=off", "'sourceCheck' not allowed"),
    ("config.security.sources=10.0.0.1", "'/config/security/sources'"),
    ("config.security.user=nobody", "'user' not allowed"),
    ("config.control.socket=control.sock", "'/config/control/socket'"),
    ("config.datapath.offloads.tso=maybe", "'/config/datapath/offloads/tso'"),
    ("config.datapath.offloads.tos=off", "'tos' not allowed"),
    ("config.probe.interval_s=3601", "'/config/probe/interval_s'"),
    ("config.overlay.vni=2", "'vni' not allowed"),
    ("config.overlay.mac=ce:5f:f6:73:cf:b9", "'mac' not allowed"),
    ("config.overlay.mtu=67", "'/config/overlay/mtu'"),
    ("config.kube.pod_names=1", "'/config/kube/pod_names'"),
    ("config.kube.api_url=https://x", "'api_url' not allowed"),
    ("config.metrics.listen=0.0.0.0:1", "'metrics' not allowed"),
    ("extraArgs[0]=iface=eth1", "'/extraArgs/0'"),
    ("extraArgs[0]=--iface eth1", "'/extraArgs/0'"),
    ("extraArgs[0]=--iface=", "'/extraArgs/0'"),
    ("extraArgs[0]=--interface=eth1", "'/extraArgs/0'"),
    ("extraArgs[0]=--iptables-resync=soon", "'/extraArgs/0'"),
    ("extraArgs[0]=--healthz-port=9000", "'/extraArgs/0'"),
    ("extraArgs[0]=--etcd-prefix=/x", "'/extraArgs/0'"),
    ("metrics.address=10.0.0.1", "'/metrics/address'"),
    ("metrics.port=8081", "'/metrics/port'"),
    ("metrics.port=70000", "'/metrics/port'"),
    ("resources.requests.cpu=half", "'/resources/requests/cpu'"),
    ("resources.requests.memory=100MB", "'/resources/requests/memory'"),
    ("resources.limits.memory=50Mi", "resources.limits.memory: 50Mi: write 100Mi or more"),
    ("resources.limits.cpu=0.4", "resources.limits.cpu: 0.4: write 500m or more"),
    ("resources.limits.gpu=1", "'gpu' not allowed"),
    ("updateStrategy.type=Recreate", "'/updateStrategy/type'"),
    ("updateStrategy.maxUnavailable=0", "'/updateStrategy/maxUnavailable'"),
    ("updateStrategy.maxUnavailable=0%", "'/updateStrategy/maxUnavailable'"),
    ("updateStrategy.maxUnavailable=101%", "'/updateStrategy/maxUnavailable'"),
    ("terminationGracePeriodSeconds=0", "'/terminationGracePeriodSeconds'"),
    ("priorityClassName=High", "'/priorityClassName'"),
    ("nodeSelector.kind=1", "'/nodeSelector/kind'"),
    ("nodeSelector.a b=c", "at '/nodeSelector': additional properties 'a b'"),
    ("nodeSelector.kind=a b", "'/nodeSelector/kind'"),
    ("tolerations[0].operator=Any", "'/tolerations/0/operator'"),
    ("tolerations[0].operator=Equal", "'/tolerations/0'"),
    ("tolerations[0].key=a,tolerations[0].operator=Exists,tolerations[0].value=b", "'/tolerations/0/value'"),
    ("tolerations[0].key=a,tolerations[0].tolerationSeconds=5", "'/tolerations/0'"),
    ("podAnnotations.a b=c", "at '/podAnnotations': additional properties 'a b'"),
    ("podAnnotations.seen=1", "'/podAnnotations/seen'"),
    ("replicas=3", "'replicas' not allowed"),
)


@pytest.mark.parametrize(("given", "said"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(given: str, said: str) -> None:
    """Nothing is rendered, and the message names the key."""
    done = helm("--set", given)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


IN_RANGE = (
    "backend.vni=0",
    "backend.vni=16777215",
    "backend.port=1",
    "backend.port=65535",
    "backend.mtu=118",
    "network.ipv6=fd00::/56,backend.mtu=1350",
    "network.ipv4=10.0.0.0/8",
    "network.ipv6=2001:db8:1:2:3:4:5:0/112",
    "config.datapath.workers=auto",
    "config.datapath.workers=16",
    "config.probe.interval_s=3600",
    "config.security.source_check=off",
    "config.overlay.mtu=1400",
    "config=null",
    "updateStrategy.maxUnavailable=100%",
    "resources.limits.memory=1.5Gi",
    "resources.limits.cpu=0.5,resources.limits.memory=104857600",
    "resources.requests.memory=null,resources.limits.memory=1k",
    "resources.requests.cpu=0.25",
    "metrics.address=::",
    "image.repository=[fd00::1]:5000/a/b--c/d__e",
    "image.repository=vxland",
    "network.ipv4=126.0.0.0/8",
    "network.ipv4=223.255.0.0/16",
    "nodeLabel=enabled",
    "nodeSelector.kubernetes\\.io/os=linux",
    "config.datapath.offloads.tso=off",
    "config.datapath.offloads=off",
    "config.control.socket=/run/vxland/other.sock",
    "config.security.sources.203\\.0\\.113\\.7[0]=10.0.0.9",
    "extraArgs={--ip-masq=false,-v=1,--iface-regex=^eth[0-9]$,--ip-blackhole-route}",
    "tolerations[0].operator=Exists,tolerations[0].effect=NoExecute,tolerations[0].tolerationSeconds=5",
)


@pytest.mark.parametrize("given", IN_RANGE)
def test_the_ends_of_a_range_are_accepted(tmp_path: Path, given: str) -> None:
    """The daemon accepts what the chart does: its settings and the network are read again from the rendered objects."""
    made = objects("--set", given)
    settings_of(made, tmp_path)
    data = made["ConfigMap", "kube-flannel-cfg"]["data"]
    net_conf.parse(data["net-conf.json"], "net-conf.json", pools=False)


def test_values_stay_what_they_are() -> None:
    """Names that YAML takes for numbers, truth values or comments reached the API server as such."""
    spec = template("--set-string", ODD)["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][1]["key"] == "true"
    (apart,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["namespaces"] == ["2", "null"]
    assert (spec["priorityClassName"], spec["imagePullSecrets"]) == ("1", [{"name": "3"}])
    assert {each["name"]: each for each in spec["volumes"]}["cni"]["hostPath"]["path"] == "/etc/a #b"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The command of an administrator of a real API server; the namespace is there."""
    with realkube.running(tmp_path_factory.mktemp("api")) as api:
        command = (str(KUBECTL), "--server", api.url, "--certificate-authority", str(api.ca), "--token", "admin-token")
        subprocess.run((*command, "create", "namespace", "kube-flannel"), check=True, capture_output=True)
        yield command


ODD = "nodeLabel=true,priorityClassName=1,flannelNamespaces={2,null},image.pullSecrets={3},cni.confDir=/etc/a #b"
TAKEN = (
    (),
    BESIDE_FLANNEL,
    ("--set-string", ODD),
    (
        "--set",
        "metrics.address=::,network.ipv6=fd00::/56,image.repository=[fd00::1]:5000/a,updateStrategy.type=OnDelete",
    ),
    ("--set", "resources.requests.cpu=2,resources.limits.cpu=2.5,resources.limits.memory=200000000,config=null"),
    ("--set", "updateStrategy.maxUnavailable=3,nodeSelector.a=b,podAnnotations.x/y=z,extraArgs={-v=1}"),
    ("--set", "tolerations[0].operator=Exists,tolerations[0].effect=NoExecute,tolerations[0].tolerationSeconds=5"),
)


@pytest.mark.parametrize("words", TAKEN)
def test_a_real_api_server_takes_it(kubectl: tuple[str, ...], words: tuple[str, ...]) -> None:
    """It refused the address `::`, which YAML read as a key, and quantities that were numbers, as Helm 4 sends them."""
    apply = (*kubectl, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
    done = subprocess.run(apply, input=helm(*words).stdout, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "daemonset.apps/kube-vxland-ds serverside-applied (server dry run)" in done.stdout


def keys(tree: object, at: str = "") -> Iterator[str]:
    """Yield the path of each value."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from keys(value, f"{at}.{key}" if at else str(key))
    else:
        yield at


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


def test_every_value_has_a_range() -> None:
    """values.schema.json knows each value of values.yaml, and requires nothing of a user."""
    schema = json.loads(chart.SCHEMA.read_text())
    for path in keys(VALUES):
        at: dict[str, Any] = schema
        for key in path.split("."):
            at = at["properties"].get(key) or pytest.fail(f"{path} is not in {chart.SCHEMA.name}")
            at = schema["definitions"][at["$ref"].rpartition("/")[2]] if "$ref" in at else at
        assert at.keys() & {"type", "enum"}, path


def test_the_chart_is_of_this_version() -> None:
    """The chart's version and its image's are vxland's."""
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)
