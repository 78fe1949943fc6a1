"""Values of the Helm chart: one out of range is refused by name, and a real API server takes all others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import (
    BESIDE_FLANNEL,
    HELM,
    KUBECTL,
    VALUES,
    helm,
    objects,
    settings_of,
    template,
)
from tests.registry import realkube
from tools import chart
from vxland.registry import net_conf

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(not HELM.exists(), reason="helm is missing: make build/helm/helm"),
]


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


def test_every_value_has_a_range() -> None:
    """values.schema.json knows each value of values.yaml, and requires nothing of a user."""
    schema = json.loads(chart.SCHEMA.read_text())
    for path in keys(VALUES):
        at: dict[str, Any] = schema
        for key in path.split("."):
            at = at["properties"].get(key) or pytest.fail(f"{path} is not in {chart.SCHEMA.name}")
            at = schema["definitions"][at["$ref"].rpartition("/")[2]] if "$ref" in at else at
        assert at.keys() & {"type", "enum"}, path
