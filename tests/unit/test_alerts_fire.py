"""A real Prometheus fires each alert of deploy/prometheus for a node that has its problem, and none for a healthy one.

It scrapes what metric_families.py makes of two samples, and evaluates the rules with all times divided by 60. So an
alert that waits for 10 minutes fires after 10 seconds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from tests.etcd import free_port
from tests.patience import PATIENCE_S
from vxland.forwarding.counts import Direction, PeerTraffic, SocketQueue
from vxland.model.lease import Lease, Mac, RegistryHealth, Vtep
from vxland.node.api.metric_families import families
from vxland.node.sample import DeviceSample, NodeSample, Reconciling
from vxland.probes.reach import Cause, Probing, Reach

pytestmark = [
    pytest.mark.packages,
    pytest.mark.once,
    pytest.mark.slow("15 seconds stand for the 15 minutes of an alert"),
]

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy/prometheus/alerts.yml").read_text()
NAMES = {rule["alert"] for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]}

PEERS = [Lease(ip_network(f"10.244.{n}.0/24"), Vtep(ip_address(f"192.0.2.{n}"), Mac(n))) for n in (1, 2)]
REACHABLE = Reach("reachable", 1.0, 0.001, 0.001, 0.001, 0.0, "passes")
SILENT = Reach("unreachable", 1.0, loss=1.0, cause=Cause("silent", "No answer.", "Look at the node."))
LOSSY = Reach("reachable", 1.0, 0.001, 0.001, 0.001, 0.2, "hole", 1400, Cause("mtu_hole", "Lost.", "Look at the MTU."))
Sample = tuple[NodeSample, list[DeviceSample]]


def node(seconds: float, *, ill: bool) -> Sample:
    """Return the samples of a node that has run for that long: with every problem at once, or with none."""
    many = int(seconds * 1000) if ill else 0
    drops = {"unknown_vtep": many, "bad_vni": many, "bum": int(seconds * 1000)}
    counts = dict(Direction().counts) | {"frames": int(seconds * 1000)}
    health = RegistryHealth(error="refused", since=time.monotonic() - 1000, quarantined={"a": "no JSON"})
    return NodeSample(
        {"encap": Direction(counts, drops), "decap": Direction(counts, drops)},
        leases=2,
        not_ready="flannel.1 is missing" if ill else "",
        registry=health if ill else RegistryHealth(),
        loop_lag_s=2.0 if ill else 0.01,
        firewall={"ipv4": (0, many)},
        cpu={"used": seconds / 10, "waited": seconds / 100, "throttled": seconds / 2 if ill else 0.0},
    ), [
        device("flannel.1", many, dict.fromkeys(PEERS, SILENT if ill else REACHABLE), ill=ill),
        device("flannel-v6.1", many, dict.fromkeys(PEERS, LOSSY if ill else REACHABLE), ill=ill),
    ]


def device(name: str, many: int, peers: dict[Lease, Reach], *, ill: bool) -> DeviceSample:
    """Return the sample of one device; `many` is each of its counters of lost frames."""
    return DeviceSample(
        name=name,
        offloads={"tso": True},
        peers={lease.vtep: PeerTraffic() for lease in PEERS},
        sockets=[SocketQueue(0, 200, many)],
        underlay_mtu=1500,
        narrower=0,
        not_forwarded=int(ill),
        disbelieved=int(ill),
        tap_dropped=many,
        underlay_dropped=many,
        socket_full=many,
        bad_checksums=many,
        reconciling=Reconciling(5, 1, 0, {("replace_route", "netlink"): many}, {}, pending=int(ill), requests=9),
        probing=Probing(peers=peers),
    )


class Collector:
    """A collector of prometheus_client over the families of a node."""

    def __init__(self, sample: Callable[[], Sample]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        """Yield the families now."""
        yield from families(*self._sample())


@contextmanager
def exporter() -> Iterator[str]:
    """Serve /ill and /healthy as a node serves /metrics; yield host and port."""
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry = CollectorRegistry()
            registry.register(Collector(lambda: node(time.monotonic() - started, ill=self.path == "/ill")))
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def prometheus(folder: Path, exported: str) -> Iterator[Callable[[str], Any]]:
    """Run Prometheus; yield a function that returns the data of a path of its API."""
    rules = re.sub(r"\bfor: (\d+)m\b", r"for: \1s", re.sub(r"\[(\d+)m\]", r"[\1s]", RULES))
    assert not re.search(r"for: \d+m|\[\d+m\]", rules)
    (folder / "alerts.yml").write_text(rules)
    jobs = [
        {
            "job_name": f"vxland-{path}",
            "metrics_path": f"/{path}",
            "static_configs": [{"targets": [address], "labels": {"instance": path}}],
        }
        for path, address in (("ill", exported), ("healthy", exported), ("down", f"127.0.0.1:{free_port()}"))
    ]
    every = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config = {"global": every, "rule_files": ["alerts.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = (
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )

    def ask(path: str) -> Any:  # noqa: ANN401  (JSON)
        with urlopen(f"http://{address}/api/v1/{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield ask
        finally:
            process.kill()


def test_each_alert_fires(tmp_path: Path) -> None:
    """For the node with the problem alone; and its texts name values, not errors of the template."""
    assert shutil.which("prometheus"), "Debian's package prometheus is missing: tools/packages.sh test"
    with exporter() as exported, prometheus(tmp_path, exported) as ask:
        firing: list[dict[str, Any]] = []
        names, end = set[str](), time.monotonic() + PATIENCE_S
        while names != NAMES and time.monotonic() < end:
            time.sleep(0.5)
            with suppress(URLError):  # it starts
                firing = [each for each in ask("alerts")["alerts"] if each["state"] == "firing"]
            names = {each["labels"]["alertname"] for each in firing if each["labels"]["instance"] != "healthy"}
        assert names == NAMES, (NAMES - names, (tmp_path / "log").read_text()[-2000:])
        by_instance = {(each["labels"]["alertname"], each["labels"]["instance"]) for each in firing}
    assert {name for name, instance in by_instance if instance == "down"} == {"VxlandDown"}
    assert {name for name, instance in by_instance if instance == "ill"} == NAMES - {"VxlandDown"}
    assert not {name for name, instance in by_instance if instance == "healthy"}
    for each in firing:
        for text in each["annotations"].values():
            assert "<" not in text, each  # "<error expanding template: ...>", "<no value>"
            assert "{{" not in text, each
