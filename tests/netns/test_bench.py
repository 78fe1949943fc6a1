"""Short runs of the benchmark by its command: it measures, writes, and leaves nothing behind.

pod A ── cni0 ── flannel.1 (kernel vxlan, then vxland) ── cni0 ── pod C      namespaces vxdemo-<pid of the benchmark>-*
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.browser import PROGRAM, Browser, check_page
from vxland.lab import cgroups, kube, namespaces, shell
from vxland.lab.bench.cluster import PACKAGES

ROOT = Path(__file__).parents[2]
END_S = 120.0
LACKING = [program for program in (*shell.PACKAGES, *PACKAGES["etcd"], "ethtool") if shutil.which(program) is None]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    pytest.mark.skipif(not shell.TUN.exists(), reason=f"no {shell.TUN}"),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


def start(*options: str) -> subprocess.Popen[str]:
    """Start the benchmark as a separate process."""
    return subprocess.Popen(
        [sys.executable, "-m", "vxland", "bench", "--quick", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_short_flood() -> None:
    """With each filter against two unknown senders the stream continues; only input filters spare vxland the reads."""
    running = start("--flood", "2", "--json")
    out, err = running.communicate(timeout=END_S)
    assert running.returncode == 0, err
    found = json.loads(out)["medians"]
    assert list(found) == ["off", "vtep", "strict", "nftables", "another port"]
    for check, numbers in found.items():
        assert numbers["flood_pps"] > 0
        assert numbers["kept"] > 0
        assert (numbers["seen"] == 0) == (check in {"nftables", "another port"})
    assert "Traceback" not in err
    assert namespaces.remains(running.pid) == []


MADE = {
    "tcp1": ("tcp1_gbit_s", "tcp1_cpu_s_per_gb"),
    "both": ("both_gbit_s",),
    "ping": ("ping_us",),
    "rr": ("rr_p50_us", "rr_p99_us"),
    "connect": ("connect_per_s", "connect_p50_us", "connect_p99_us"),
    "flood": ("flood_pps",),
    "lossless": ("lossless_pps",),
}


def test_a_short_run(tmp_path: Path) -> None:
    """One round of kernel and vxland on the wire of small packets: numbers, ratios and files; the page opens."""
    names = [word for name in (*MADE, "restart", "scale") for word in ("--measure", name)]
    subjects = ("--subject", "kernel", "--subject", "vxland")
    running = start("--wire", "wire", *subjects, *names, "--json", "--output", str(tmp_path / "out"))
    out, err = running.communicate(timeout=END_S)
    assert running.returncode == 0, err
    found = json.loads(out)
    assert found["complete"]
    (kernel, vxland) = (found["summary"]["wire"][name] for name in ("kernel", "vxland"))
    for key in (key for keys in MADE.values() for key in keys):
        assert vxland[key]["median"] > 0
        assert vxland[key]["to_kernel"]["median"] > 0
    assert "rss_mib" not in kernel
    assert {"restart_pings_lost", "restart_stalled_s"} <= kernel.keys() & vxland.keys()
    assert len(found["fast_path"]["wire"]["vxland"]) == 1
    assert set(found["once"]) == {"lookup_10000_to_10", "rss_1000_leases_mib"}
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == found
    assert "| connections a second |" in (tmp_path / "out" / "bench.md").read_text()
    assert namespaces.remains(running.pid) == []
    if PROGRAM is None:
        pytest.skip("the page was written but not opened: apt-get install chromium")
    with Browser() as browser:
        check_page(browser, tmp_path / "out" / "bench.html")
        bars = "[...document.querySelectorAll('.panel rect.vxland')].map(e => e.getBoundingClientRect().width)"
        assert len(browser.evaluate(bars)) == 7
        assert min(browser.evaluate(bars)) > 0


def test_a_cluster(tmp_path: Path) -> None:
    """A thousand leases in a real etcd: all arrive, single changes and a storm too; nothing is left behind."""
    running = start("--leases", "1000", "--json", "--output", str(tmp_path))
    out, err = running.communicate(timeout=END_S)
    assert running.returncode == 0, err
    found = json.loads(out)
    assert (found["store"], found["complete"]) == ("etcd", True)
    (costs,) = found["sizes"]
    assert costs["leases"] == 1000
    assert costs["start_s"] > 0
    assert costs["rest_mib"] > 0
    assert len(costs["change_ms"]) == 5
    assert costs["work"]["kernel_changes"] == 1  # the neighbour's MAC, and nothing else
    assert costs["work"]["netlink_requests"] < 50  # not one for each lease
    assert costs["work"]["kernel_reads"] == 0
    assert costs["work"]["store_requests"] == 0  # the watch says it all
    assert costs["storm"]["changes"] == 500
    assert "500 changes a second" in err
    assert json.loads((tmp_path / "leases-etcd.json").read_text()) == found
    assert "| leases in etcd | 1,000 |" in (tmp_path / "leases-etcd.md").read_text()
    assert namespaces.remains(running.pid) == []


@pytest.mark.skipif(not os.environ.get(kube.ASSETS), reason=f"{kube.ASSETS} names no folder with kube-apiserver")
def test_a_cluster_in_kubernetes(tmp_path: Path) -> None:
    """Twenty Nodes in a real kube-apiserver: the same, and kubelets' own writes."""
    running = start("--leases", "20", "--store", "kube", "--json", "--output", str(tmp_path))
    out, err = running.communicate(timeout=END_S)
    assert running.returncode == 0, err
    found = json.loads(out)
    assert (found["store"], found["complete"]) == ("kube", True)
    (costs,) = found["sizes"]
    assert len(costs["change_ms"]) == 5
    assert costs["work"]["kernel_changes"] == 1
    assert costs["work"]["store_requests"] == 0
    assert costs["beat_bytes"] > 10_000  # a whole Node
    assert costs["storm"]["changes"] == 100
    assert namespaces.remains(running.pid) == []


def test_an_interrupted_cluster_is_removed(tmp_path: Path) -> None:
    """Ctrl-C while vxland starts: exit 1 with a message, and neither etcd nor vxland continues."""
    running = start("--leases", "20", "--json", "--output", str(tmp_path))
    log = namespaces.RUN_DIR / f"vxdemo-{running.pid}" / "node1.log"
    end = time.monotonic() + END_S
    while not log.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=END_S)
    assert (running.returncode, out) == (1, "")
    assert "interrupted" in err
    assert namespaces.remains(running.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_removes_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C during traffic: exit 1 with a message, no standard output, no namespace, file or process left."""
    running = start("--subject", "vxland", "--measure", "tcp1", "--output", str(tmp_path))
    log = namespaces.RUN_DIR / f"vxdemo-{running.pid}" / "iperf3.log"
    end = time.monotonic() + END_S
    while not log.exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    running.send_signal(number)
    out, err = running.communicate(timeout=END_S)
    assert running.returncode == 1
    assert "interrupted" in err
    assert out == ""
    assert namespaces.remains(running.pid) == []


@pytest.mark.skipif(not cgroups.usable(), reason="control groups have no controller `cpu` here")
def test_an_interrupt_removes_control_groups(tmp_path: Path) -> None:
    """Ctrl-C while neighbours are busy: their groups and vxland's are gone with the rest."""
    running = start("--subject", "vxland", "--measure", "quota", "--output", str(tmp_path))
    end = time.monotonic() + END_S
    while sum(path.name.startswith(f"vxdemo-{running.pid}-") for path in cgroups.of_labs()) < 3:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=END_S)
    assert running.returncode == 1
    assert "interrupted" in err
    assert namespaces.remains(running.pid) == []


def test_an_unwritable_output_is_refused_first(tmp_path: Path) -> None:
    """A file in the place of the output directory: exit 1 and the remedy, before any measurement."""
    (tmp_path / "file").touch()
    running = start("--output", str(tmp_path / "file" / "out"))
    _, err = running.communicate(timeout=END_S)
    assert running.returncode == 1
    assert "cannot be written" in err
    assert "--output" in err
