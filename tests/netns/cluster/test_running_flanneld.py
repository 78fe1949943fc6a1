"""flanneld and vxland on one node: the one that starts second must not cut the node off.

An upgrade of flannel by `kubectl apply` undoes the patch that keeps it off vxland's nodes. vxland then repeatedly
deleted a running flanneld's device, and ended each time. The cluster is lab.py's; d is the node.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.interop.ns import Ns, wait_until
from tests.netns.interop.traffic import ping
from vxland.lab import shell

from .fake_flanneld import FakeFlanneld
from .lab import Cluster
from .node import Member

pytestmark = pytest.mark.netns

HEALTH = """
import http.server
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"flanneld is running")
http.server.HTTPServer(("0.0.0.0", 8081), Health).serve_forever()
"""


@contextmanager
def living(ns: Ns, *argv: str) -> Iterator[None]:
    """A process of the namespace, until the end of the body."""
    with subprocess.Popen(shell.exec_in(ns.name, *argv), stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.fixture(params=["process", "health port"])
def sign(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """The command line of a process that shows that flanneld runs: by its name, or by its answer."""
    if request.param == "health port":
        return ("python3", "-c", HEALTH)
    program = tmp_path / "flanneld"
    shutil.copy("/bin/sleep", program)
    return (str(program), "1000")


@pytest.fixture
def flanneld(cluster: Cluster) -> Iterator[FakeFlanneld]:
    """A fake flanneld on node d, which has nothing yet."""
    cluster.remove("d")
    daemon = cluster.flanneld("d")
    yield daemon
    if cluster.members["d"].running:
        cluster.remove("d")


def index(cluster: Cluster) -> int:
    """Return the index of node d's flannel.1."""
    return int(cluster.nodes["d"].ns.ip_json("link show flannel.1")[0]["ifindex"])


def reaches_all(cluster: Cluster) -> None:
    """Assert that every other node reaches node d's overlay address."""
    for letter in "abc":
        wait_until(
            lambda letter=letter: cluster.nodes[letter].ns.attempt("ping", "-c1", "-W1", "10.244.88.0").returncode == 0,  # type: ignore[misc]  # a lambda has no types
            f"{letter} reaches d",
        )


def test_a_running_flannelds_device_is_left_alone(
    cluster: Cluster, c: FakeFlanneld, spare: Member, flanneld: FakeFlanneld, sign: tuple[str, ...]
) -> None:
    """Until flanneld ends, vxland waits, changes nothing, and logs the reason."""
    flanneld.start({4: "10.244.88.0/24"})
    cluster.agree("flanneld joins")
    c.follow()
    before, text = index(cluster), cluster.etcd.subnets()[flanneld.name]
    spare.subnet_file.write_text("FLANNEL_SUBNET=10.244.88.1/24\n")
    with living(cluster.nodes["d"].ns, *sign):
        spare.launch()
        wait_until(lambda: "flanneld runs on this node" in spare.readiness()[1], "the reason", spare.said)
        (event,) = spare.events("node_waits")
        assert "keep flannel off this node" in event["remedy"]
        assert (cluster.nodes["d"].kind(), index(cluster)) == ("vxlan", before)
        assert cluster.etcd.subnets()[flanneld.name] == text
        reaches_all(cluster)
    spare.wait_ready()
    assert cluster.nodes["d"].kind() == "tun"
    reaches_all(cluster)
    assert len(spare.events("node_waits")) == 1


def test_a_flanneld_of_another_network(
    cluster: Cluster, spare: Member, flanneld: FakeFlanneld, sign: tuple[str, ...]
) -> None:
    """It uses another device, so vxland makes its own while no other program has it."""
    assert not flanneld.subnets
    with living(cluster.nodes["d"].ns, *sign):
        spare.start()
    assert not spare.events("node_waits")


def test_vxland_leaves_its_node_to_a_flanneld_that_comes(
    cluster: Cluster, c: FakeFlanneld, spare: Member, flanneld: FakeFlanneld, sign: tuple[str, ...]
) -> None:
    """The TAP is replaced at flanneld's start, which gets the port and the lease; vxland waits in its process."""
    ns = cluster.nodes["d"].ns
    spare.subnet_file.write_text("FLANNEL_SUBNET=10.244.88.1/24\n")
    spare.start()
    pid, frames = spare.pid, spare.metric('vxland_frames_total{direction="decap"}')
    ping(cluster.nodes["a"].ns, "10.244.88.0")
    flanneld.subnets = {4: "10.244.88.0/24"}
    with living(ns, *sign):

        def up() -> bool:  # a pod whose flanneld cannot get the port is restarted
            try:
                flanneld.ensure_links()
            except Exception:  # noqa: BLE001  (StartError of the `ip` that failed)
                return False
            return True

        wait_until(up, "flanneld has device and port", spare.said)
        flanneld.publish()
        flanneld.follow()
        cluster.agree("flanneld is back")
        c.follow()
        before, text = index(cluster), cluster.etcd.subnets()[flanneld.name]
        wait_until(lambda: "flanneld runs on this node" in spare.readiness()[1], "the reason", spare.said)
        reaches_all(cluster)
        assert (cluster.nodes["d"].kind(), index(cluster)) == ("vxlan", before)
        assert cluster.etcd.subnets()[flanneld.name] == text
    spare.wait_ready()
    assert spare.pid == pid
    assert cluster.nodes["d"].kind() == "tun"
    assert cluster.nodes["d"].macs() == {4: flanneld.macs[4]}  # no peer has to change its entry
    assert spare.metric('vxland_frames_total{direction="decap"}') > frames
    reaches_all(cluster)
