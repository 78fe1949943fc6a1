"""The Dockerfile and compose.yaml on a real engine.

pod1 10.244.0.19 = pods1 = node1 192.168.111.128 === underlay === .129 node2 = pods2 = pod3 10.244.1.13
pod2 10.244.0.18 =                                                             = pod4 10.244.1.14
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from tests.docker.engine import Engine, wait_until
from tests.docker.images import BASE, COMPOSE, NODE, POD, PROMETHEUS
from tests.installed import ROOT
from tools.dashboard import DASHBOARD, panels
from vxland.lab.traffic import parse_ping

PODS = {
    name: next(iter(service["networks"].values()))["ipv4_address"]
    for name, service in COMPOSE["services"].items()
    if name.startswith("pod")
}
NODES = ("node1", "node2")
CAP_NET_ADMIN, CAP_BPF = 1 << 12, 1 << 39
MAX_SIZE = 90_000_000
"""Bytes that Python, its packages, vxland and firewall programs may add to the base image, unpacked."""

MAX_COMPRESSED = 80_000_000
"""Bytes of the whole image, base included, in a registry or a file."""

STRANGER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for _ in range(50):
        sock.sendto(bytes.fromhex("0800000000000100") + bytes(60), ("192.168.111.128", 8472))
"""
"""A VXLAN datagram of a sender that is in no table."""

REMOVE_DEVICE = """
from pyroute2 import IPRoute
with IPRoute() as kernel:
    kernel.link("del", index=kernel.link_lookup(ifname="flannel.1")[0])
"""


def report(text: str) -> None:
    """Print a measurement."""
    print(f"\n  {text}", flush=True)  # noqa: T201  (the purpose of the target)


def in_pod(engine: Engine, pod: str, *argv: str) -> str:
    """Run a command in a container of the overlay and return its output."""
    return engine.attempt("compose", "exec", "-T", pod, *argv).stdout


def ping(engine: Engine, pod: str, address: str, ttl: int) -> None:
    """Send three echo requests, and assert that each is answered with this TTL."""
    output = in_pod(engine, pod, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", address)
    found = parse_ping("ping", output)
    assert found.complete, f"{pod} to {address}: {output}"
    assert set(found.ttls) == {ttl}, output


def health(engine: Engine, service: str) -> str:
    """Return healthy, unhealthy or starting."""
    container = engine.compose("ps", "--quiet", service).strip()
    return str(engine.inspect(container)["State"]["Health"]["Status"])


def ask(engine: Engine, path: str) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return Prometheus's answer, at the port that compose.yaml publishes."""

    def get() -> Any:  # noqa: ANN401  (as JSON has it)
        with urlopen(f"http://127.0.0.1:9090/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    return engine.inside(get)


def up(engine: Engine) -> bool:
    """Return whether both nodes were scraped; False without an answer."""
    try:
        found = ask(engine, "targets")["activeTargets"]
    except OSError:
        return False
    return {one["labels"]["instance"] for one in found if one["health"] == "up"} == {f"{node}:9472" for node in NODES}


def test_image(built: Engine) -> None:
    """Small, with the compiled gear and without the tools that compiled it."""
    size, base = (built.inspect(image)["Size"] for image in (NODE, BASE))
    report(f"{NODE}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB of them over {BASE}")
    assert 0 < size - base < MAX_SIZE
    pipe = f"docker save {NODE} | gzip | wc -c"
    packed = int(subprocess.run(("sh", "-c", pipe), env=built.env, capture_output=True, check=True).stdout)
    report(f"{NODE}: {packed / 1e6:.0f} MB in a registry")
    assert size // 10 < packed < MAX_COMPRESSED
    look = (
        "import shutil, importlib.util; from vxland.forwarding.pump import COMPILED;"
        "print(COMPILED, [name for name in ('gcc', 'cc', 'ld', 'make', 'strip', 'pip') if shutil.which(name)],"
        "[name for name in ('Cython.Compiler', 'pip', 'setuptools') if importlib.util.find_spec(name)])"
    )
    assert built.run("run", "--rm", "--entrypoint", "python", NODE, "-c", look) == "True [] []\n"
    assert built.run("run", "--rm", NODE, "--version").startswith("vxland, version ")
    pure = built.run("run", "--rm", "--env", "VXLAND_PURE=1", "--entrypoint", "python", NODE, "-c", look)
    assert pure == "False [] []\n"
    built.run(
        "run", "--rm", "--entrypoint", "sh", NODE, "-ec", "iptables --version; nft --version; vxland-cni-bridge -h || :"
    )


def test_the_base_by_its_digest(built: Engine) -> None:
    """A given digest is requested; an image with only the name is not accepted."""
    digest = f"sha256:{0:064}"
    done = built.attempt("build", "--build-arg", f"BASE_DIGEST={digest}", str(ROOT))
    assert done.returncode != 0
    assert f"{BASE}@{digest}" in done.stdout + done.stderr


def test_wrong_configuration(built: Engine, tmp_path: Path) -> None:
    """The container ends, and its log is one line with key, value and remedy."""
    (tmp_path / "vxland.yaml").write_text("overlay: {netwrok: 10.244.0.0/16}\n")
    done = built.attempt("run", "--rm", "-v", f"{tmp_path}:/etc/vxland:ro", NODE)
    assert done.returncode == 2
    assert "overlay.netwrok" in done.stderr
    assert "overlay.network" in done.stderr  # the nearest known key
    assert all(line.startswith("vxland: ") for line in done.stderr.splitlines()), done.stderr


def test_without_the_tap_driver(built: Engine, tmp_path: Path) -> None:
    """The error names the device for --device."""
    (tmp_path / "vxland.yaml").write_text("overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}\n")
    done = built.attempt("run", "--rm", "--cap-add", "NET_ADMIN", "-v", f"{tmp_path}:/etc/vxland:ro", NODE)
    assert done.returncode == 1
    assert "--device /dev/net/tun" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [("", "on"), ("datapath: {fast_path: off}\n", "off: datapath.fast_path is off")],
    ids=["default", "off"],
)
def test_fast_path(built: Engine, tmp_path: Path, settings: str, shown: str) -> None:
    """The image has libbpf, and the capabilities of compose.yaml are enough; an old engine has to grant SYS_ADMIN."""
    (tmp_path / "vxland.yaml").write_text(f"overlay: {{network: 10.244.0.0/16, subnet: 10.244.0.0/24}}\n{settings}")
    node = COMPOSE["services"]["node1"]
    granted = [f"--cap-add={name if name != 'BPF' or built.knows_bpf else 'SYS_ADMIN'}" for name in node["cap_add"]]
    granted += [f"--security-opt={option}" for option in node["security_opt"]]
    container = built.run(
        *("run", "--detach", "--cap-drop=ALL", *granted, "--device=/dev/net/tun", "--read-only", "--tmpfs=/run"),
        *("-v", f"{tmp_path}:/etc/vxland:ro", NODE),
    ).strip()

    def status() -> str:
        """Return the text of `vxlandctl status`; empty while there is no answer."""
        return built.attempt("exec", container, "vxlandctl", "status").stdout

    try:
        wait_until(lambda: f"fast path  {shown}" in status(), f"the fast path is {shown}", status)
        filters = built.run("exec", container, "grep", "Seccomp_filters", "/proc/1/status")
        assert filters.split() == ["Seccomp_filters:", "2"]  # the engine's, and that of kernel/memfd.py
    finally:
        built.run("rm", "--force", container)


def test_every_pod_reaches_every_other(overlay: Engine) -> None:
    """Between nodes, each of the two takes 1 off the TTL."""
    for source, target in permutations(PODS, 2):
        same_node = PODS[source].rpartition(".")[0] == PODS[target].rpartition(".")[0]
        ping(overlay, source, PODS[target], 64 if same_node else 62)


def test_full_size_packets(overlay: Engine) -> None:
    """1450 bytes fit without fragments; one more does not."""
    big = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-M", "do", "-s")
    assert parse_ping("ping", in_pod(overlay, "pod1", *big, str(1450 - 28), PODS["pod3"])).complete
    assert not parse_ping("ping", in_pod(overlay, "pod1", *big, str(1451 - 28), PODS["pod3"])).received


def test_only_the_required_capabilities(overlay: Engine) -> None:
    """Nodes have only CAP_NET_ADMIN and, where the engine knows it, CAP_BPF; pods have none."""
    nodes = CAP_NET_ADMIN | (CAP_BPF if overlay.knows_bpf else 0)
    for services, want in ((NODES, nodes), (PODS, 0)):
        for service in services:
            status = in_pod(overlay, service, "cat", "/proc/1/status")
            found = re.search(r"^CapBnd:\s+(\w+)$", status, re.MULTILINE)
            assert found is not None
            assert int(found[1], 16) == want, service


def test_iperf(metrics: Engine) -> None:
    """The profile prints its table: six runs on one node, and six between nodes."""
    printed = metrics.compose("--profile", "bench", "run", "--rm", "-T", "bench")
    report(printed.replace("\n", "\n  "))
    rows = [line for line in printed.splitlines() if re.match(r"│ (TCP|UDP),", line)]
    assert len(rows) == 6
    for row in rows:
        rates = re.findall(r"│\s+(\d+\.\d+)\b", row)
        assert len(rates) == 2, row
        assert all(float(rate) > 0 for rate in rates), row


def test_prometheus_has_both_nodes_and_every_rule(metrics: Engine) -> None:
    """No fault for promtool, the nodes are scraped, and the rules of alerts.yml are loaded."""
    metrics.compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    wait_until(lambda: up(metrics), "both nodes are scraped", lambda: metrics.compose("logs", "prometheus"))
    wanted = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    found = ask(metrics, "rules")["groups"]
    assert [rule["name"] for group in found for rule in group["rules"]] == [
        rule["alert"] for group in wanted for rule in group["rules"]
    ]


def test_the_dashboard_has_answers(metrics: Engine) -> None:
    """Each query of each panel returns series. For the drops an unknown sender sends datagrams."""
    wait_until(lambda: up(metrics), "both nodes are scraped")
    network = next(name for name in metrics.run("network", "ls", "--format", "{{.Name}}").split() if "underlay" in name)
    queries = [
        (panel.title, query)
        for panel in panels(json.loads(DASHBOARD.read_text()))
        for query, _ in panel.queries
    ]  # fmt: skip
    assert len(queries) > 15

    def unanswered() -> list[tuple[str, str]]:
        metrics.run("run", "--rm", "--network", network, "--entrypoint", "python", POD, "-c", STRANGER)
        in_pod(
            metrics, "pod1", "ping", "-n", "-c", "3", "-i", "0.2", "-s", "3000", PODS["pod3"]
        )  # fragments wake vxland
        return [one for one in queries if not ask(metrics, f"query?query={quote(one[1])}")["result"]]

    end = time.monotonic() + 60
    while missing := unanswered():  # a rate needs two scrapes with a change between them
        assert time.monotonic() < end, missing
    with pytest.raises(OSError, match="400"):
        ask(metrics, "query?query=rate(vxland_frames_total")
    assert not ask(metrics, "query?query=vxland_frame_total")["result"]


def test_health(overlay: Engine) -> None:
    """A node that does not answer is unhealthy until it does again; the other one stays healthy."""
    assert [health(overlay, node) for node in NODES] == ["healthy", "healthy"]
    assert in_pod(overlay, "node2", "vxlandctl", "status", "--ready") == "ready\n"
    container = overlay.compose("ps", "--quiet", "node2").strip()
    overlay.run("kill", "--signal", "STOP", container)
    wait_until(lambda: health(overlay, "node2") == "unhealthy", "node2 is unhealthy")
    assert health(overlay, "node1") == "healthy"
    overlay.run("kill", "--signal", "CONT", container)
    wait_until(lambda: health(overlay, "node2") == "healthy", "node2 is healthy again")
    ping(overlay, "pod1", PODS["pod3"], 62)


def test_an_archive_for_support(overlay: Engine) -> None:
    """Its events are there inside the container, on a read-only root, and what needs iproute2 is named as missing."""
    command = "vxlandctl support -o - >/dev/null && vxlandctl support -o - | tar -xzOf - --wildcards '*/events.txt'"
    done = overlay.attempt("exec", overlay.compose("ps", "--quiet", "node2").strip(), "sh", "-ec", command)
    assert done.returncode == 0, done.stderr
    assert '"event": "forwarding"' in done.stdout
    assert "ip is not installed" in done.stderr
    taken = {line.split()[0] for line in done.stderr.splitlines() if line.endswith(" bytes")}
    assert {"status.json", "features.json", "host.json", "check.json", "kernel/nft-chains.txt"} <= taken, done.stderr


def test_a_deleted_device(overlay: Engine) -> None:
    """The same process makes it again, in the same container, and pods reach each other as before."""
    container = overlay.compose("ps", "--quiet", "node2").strip()
    in_pod(overlay, "node2", "python", "-c", REMOVE_DEVICE)
    wait_until(lambda: "device_recreated" in overlay.attempt("logs", container).stderr, "the device is there again")
    ping(overlay, "pod1", PODS["pod3"], 62)
    assert overlay.compose("ps", "--quiet", "node2").strip() == container
    assert overlay.inspect(container)["RestartCount"] == 0


def test_down_removes_everything(overlay: Engine) -> None:
    """No container, network or volume is left; nodes end on SIGTERM by themselves."""
    overlay.compose("stop", "--timeout", "20", *NODES)
    for node in NODES:
        container = overlay.compose("ps", "--all", "--quiet", node).strip()
        assert overlay.inspect(container)["State"]["ExitCode"] == 0
    overlay.compose("--profile", "*", "down", "--volumes")
    assert not overlay.run("ps", "-aq")
    assert set(overlay.run("network", "ls", "--format", "{{.Name}}").split()) == {"bridge", "host", "none"}
    assert not overlay.run("volume", "ls", "-q")
    assert overlay.has_image(PROMETHEUS)
