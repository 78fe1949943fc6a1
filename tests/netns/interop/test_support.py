"""`vxlandctl support` on a node in operation, and on one whose store repeats every secret that it is sent.

pod a - cni0 - flannel.1 (vxland, fast path) ===== flannel.1 (kernel vxlan) - cni0 - pod b
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vxland.lab import shell
from vxland.model.secrets import MASK

from .asking import control
from .conftest import running
from .daemon import ROOT
from .lab import FAMILIES, Lab, Vxland
from .ns import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.once]

REPEATING_STORE = """
import http.server, json
class Store(http.server.BaseHTTPRequestHandler):
    logins = 0
    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"])).decode() + str(self.headers)
        body, code = json.dumps({"error": said, "message": said, "code": 13}).encode(), 500
        if self.path.endswith("/authenticate"):
            Store.logins += 1
            if Store.logins > 2:
                body, code = b'{"token": "S3CRETtoken"}', 200
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 2379), Store)
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with the fast path and the nftables filter, node b the kernel's device."""
    made = Lab(tmp_path_factory.mktemp("lab"), "compiled").with_fast_path()
    made.vxland.settings["security"]["input_filter"] = "nftables"
    yield from running(made)


def supported(vxland: Vxland, output: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Run the command in node a; return each file of the archive, and the summary."""
    options = ("--socket", str(control(vxland)), "support", "--config", str(vxland.path), "--output", str(output))
    done = vxland.node.ns.attempt(
        "env", f"PYTHONPATH={ROOT}", sys.executable, "-P", "-m", "vxland.ctl", *options, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = {}
    with tarfile.open(output) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found, json.loads(done.stdout)


def test_a_node_in_operation(lab: Lab, tmp_path: Path) -> None:
    """The archive has the daemon's state, its last events and settings, and what the kernel has of it."""
    wait_until(lambda: lab.vxland.events("fast_path_on"), "the fast path", lab.vxland.said)
    wait_until(lambda: lab.vxland.events("input_filter_set"), "the filter", lab.vxland.said)
    found, summary = supported(lab.vxland, tmp_path / "x.tar.gz")
    assert summary["missing"] == {}
    assert set(summary["taken"]) == set(found) - {"manifest.json"}
    assert json.loads(found["status.json"])["pid"] == lab.vxland.pid
    assert [peer["subnet"] for peer in json.loads(found["peers.json"])] == [lab.b.subnet[each] for each in FAMILIES]
    assert json.loads(found["plan.json"]) == {"flannel.1": []}
    events = [json.loads(line)["event"] for line in found["events.txt"].splitlines()]
    assert {"devices_open", "forwarding", "fast_path_on"} <= set(events)
    settings = json.loads(found["settings.json"])
    assert (settings["datapath"]["fast_path"], settings["registry"]["peers"]) == ("auto", 1)
    assert set(json.loads(found["features.json"])) == {"flannel.1", "e0", "cni0"}
    assert json.loads(found["daemon-versions.json"])["aiohttp"]
    assert json.loads(found["check.json"])["ok"] is True
    assert json.loads(found["host.json"]) == []
    assert "vxland_decap" in found["kernel/filters-ingress-e0.txt"]
    assert "vxland_encap" in found["kernel/filters-egress-flannel.1.txt"]
    assert lab.b.vtep in next(text for name, text in found.items() if name.startswith("kernel/nft-ip-vxland"))
    assert lab.vxland.peers[0]["mac"] in found["kernel/neighbours-flannel.1.txt"]
    assert f"{lab.b.subnet[4]} via {lab.b.base[4]} dev flannel.1" in found["kernel/routes.txt"]
    assert "net/ipv4/ip_forward = 1" in found["kernel/sysctls.txt"]
    assert "tcp-segmentation-offload" in found["kernel/offloads-e0.txt"]


def troubles(vxland: Vxland) -> str:
    """Return the reasons that the log gives for failed requests."""
    return "\n".join(event["reason"] for event in vxland.events("registry_trouble"))


def test_a_store_that_repeats_secrets(lone: Vxland, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer, with the password that it was sent, went to the log, and from there into what people post."""
    monkeypatch.setenv("FLANNELD_ETCD_PASSWORD", "S3CRETenv")
    (tmp_path / "password").write_text("S3CRET wörd\n")
    lone.settings = {
        "registry": {"kind": "etcd"},
        "etcd": {
            "endpoints": ["http://someone:S3CRETurl@127.0.0.1:2379", "http://127.0.0.1:2379"],
            "username": "root",
            "password_file": str(tmp_path / "password"),
        },
        "underlay": {"interface": "e0"},
        "control": lone.settings["control"],
        "metrics": {"listen": ""},
    }
    with subprocess.Popen(
        shell.exec_in(lone.node.ns.name, "python3", "-c", REPEATING_STORE), stdout=subprocess.PIPE
    ) as store:
        try:
            assert store.stdout is not None
            store.stdout.readline()
            lone.launch()
            repeated = (f'"password": "{MASK}"', f"Authorization: {MASK}")
            wait_until(lambda: all(each in troubles(lone) for each in repeated), "both", lone.said)
            found, summary = supported(lone, tmp_path / "x.tar.gz")
        finally:
            lone.stop()
            store.kill()
    assert "registry_trouble" in found["events.txt"]
    assert MASK in json.loads(found["status.json"])["not_ready"]
    assert json.loads(found["check.json"])["findings"]
    texts = {**found, "summary": json.dumps(summary), "log": lone.log.read_text()}
    assert [name for name, text in texts.items() if "S3CRET" in text] == []
