"""A hostile store affects a node and its peers in nothing but its own answers.

    node a: vxland, and on its loopback the store          node c: the kernel's vxlan, set up as by flanneld
   +----------------------------------------------+       +-------------------------------------------------+
   | pod - cni0 - flannel.1                       |=======| flannel.1 - cni0 - pod                          |
   +----------------------------------------------+       +-------------------------------------------------+

During each attack every ping between the pods, vxlandctl and /healthz are answered. The daemon's memory grows by less
than GROWTH_KIB in total, its log by less than LOG_BYTES, and the log has nothing that controls a terminal.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from tests import web
from tests.hostilestore.store import HostileStore
from tests.netns.cluster.lab import Cluster
from tests.netns.cluster.node import METRICS_PORT, Member
from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import ping
from tests.patience import PATIENCE_S
from vxland.ctl import client
from vxland.ctl.cli import main

pytestmark = pytest.mark.netns

GROWTH_KIB: Final = 96 << 10
"""Peak resident memory; it was 873 MiB to 1.5 GiB."""

LOG_BYTES: Final = 64 << 10
PEER: Final = "10.244.200.0-24"
ATTACKS: Final = (
    "body without end",
    "chunks without end",
    "gzip without end",
    "a length beyond all",
    "headers without end",
    "heads without end",
    "answers without end",
    "values",
    "nesting",
    "infinity",
    "an error of megabytes",
    "an error with escapes",
    "redirects",
    "pages without end",
    "entries without end",
    "watch: a line without end",
    "watch: blank lines without end",
    "watch: answers of nothing",
    "watch: gzip",
    "watch: infinity",
    "watch: an error of megabytes",
    "watch: a flood of changes",
)


@dataclass
class Lab:
    """The two nodes, and the store in a separate thread."""

    cluster: Cluster
    store: HostileStore
    a: Member
    loop: asyncio.AbstractEventLoop
    least_kib: int = 0

    @contextmanager
    def attacked(self, fault: str) -> Iterator[None]:
        """The store behaves so during the body; at least one request has met it."""
        self.switch(fault)
        try:
            wait_until(lambda: self.store.faulty, f"{fault} is done to the node", self.a.said)
            yield
        finally:
            self.switch("")

    def switch(self, fault: str) -> None:
        """Switch the store to this fault, or to honest."""
        self.loop.call_soon_threadsafe(self.store.switch, fault)
        wait_until(lambda: self.store.fault == fault, "the store has turned")

    def status(self) -> dict[str, object]:
        """Return the output of vxlandctl for programs."""
        done = CliRunner().invoke(main, ["--socket", self.a.settings["control"]["socket"], "status", "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def most_kib(self) -> int:
        """Return the daemon's peak resident memory."""
        text = Path(f"/proc/{self.a.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a follows the store; node c has its lease in a real one, which a does not know."""
    conf: dict[str, object] = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
    cluster = Cluster(tmp_path_factory.mktemp("hostile"), conf, "ac")
    store = HostileStore()
    try:
        cluster.build()
        c = cluster.flanneld("c")
        c.start({4: PEER.replace("-", "/")})
        cluster.nodes["c"].attach_pod("FLANNEL_SUBNET=10.244.200.1/24\nFLANNEL_MTU=1450\n")
        store.put(PEER, c.value.encode())
        a = cluster.member("a")
        with a.ns.socket("127.0.0.1", socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            a.settings["etcd"]["endpoints"] = [f"http://127.0.0.1:{sock.getsockname()[1]}"]
            with store.serving_in_thread(sock) as loop:
                a.start()
                a.node.attach_pod(a.subnet_env())
                for key, value in store.entries.items():
                    cluster.etcd.put(key.decode().removeprefix(store.prefix + "/"), value.decode())
                c.follow()
                for near, far in ("ac", "ca"):
                    pod, address = cluster.nodes[near].pod_ns, cluster.nodes[far].pod[4]
                    answers = partial(pod.attempt, "ping", "-c1", "-W1", address)
                    wait_until(lambda: answers().returncode == 0, f"{address} answers", a.said)  # noqa: B023  (called at once)
                made = Lab(cluster, store, a, loop)
                made.least_kib = made.most_kib()
                yield made
                a.stop()
    finally:
        cluster.down()


@pytest.mark.parametrize("fault", ATTACKS)
def test_an_attack_affects_no_other(lab: Lab, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon ended, or took 1.5 GiB, or filled its log, or stopped answering, because of the store's answers."""
    monkeypatch.setattr(client, "ANSWER_S", PATIENCE_S)  # a busy machine has more to do than this daemon
    near, far = (lab.cluster.nodes[letter] for letter in "ac")
    before = len(lab.a.said())
    with lab.attacked(fault):
        for _ in range(3):
            ping(near.pod_ns, far.pod[4])
            ping(far.pod_ns, near.pod[4])
            registry = lab.status()["registry"]
            assert isinstance(registry, dict)
            assert registry["error"].isprintable()
            assert len(registry["error"]) < 2000
            assert lab.a.ns.inside(lambda: web.get(f"http://127.0.0.1:{METRICS_PORT}/healthz"))[0] == 200
    said = lab.a.said()[before:]
    assert len(said) < LOG_BYTES
    assert all(line.isprintable() for line in said.splitlines())
    assert "Traceback" not in said
    assert lab.most_kib() < lab.least_kib + GROWTH_KIB


def test_an_honest_store_is_followed_again(lab: Lab) -> None:
    """No effect lasts: a peer that joins appears, and no other is lost."""
    name, value = lab.cluster.ghost(210)
    lab.loop.call_soon_threadsafe(lab.store.put, name, value.encode())
    wait_until(lambda: name.replace("-", "/") in lab.a.node.peers(), "the new peer", lab.a.said)
    assert PEER.replace("-", "/") in lab.a.node.peers()
    ping(lab.cluster.nodes["a"].pod_ns, lab.cluster.nodes["c"].pod[4])
