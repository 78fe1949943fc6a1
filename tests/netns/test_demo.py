"""The demo, run by its command, leaves nothing behind.

pod A  pod B                    pod C  pod D        every namespace is the demo's own,
  └─cni0─┘                        └─cni0─┘          named vxdemo-<pid of the demo>-*
     │                               │
 flannel.1 (vxland)              flannel.1 (vxland, or the kernel's vxlan)
     │                               │
   ens33 ─────────────────────────ens33
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.browser import PROGRAM, Browser, check_page
from tests.installed import installed_wheel
from vxland.lab import namespaces, shell, traffic
from vxland.lab.demo.runner import DemoPlan
from vxland.lab.topology import POD_A

ROOT = Path(__file__).parents[2]
END_S = 60.0
PROGRAMS = {**shell.PACKAGES, **DemoPlan(("vxland", "vxland"), registry="etcd", cni=True).packages}
LACKING = [program for program in PROGRAMS if shutil.which(program) is None]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    pytest.mark.skipif(not shell.TUN.exists(), reason=f"no {shell.TUN}"),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
]


def start(*options: str, command: tuple[str, ...] = (sys.executable, "-m", "vxland")) -> subprocess.Popen[str]:
    """Start the demo as a separate process."""
    return subprocess.Popen(
        [*command, "demo", *options],
        cwd=ROOT if command[0] == sys.executable else "/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def traces(pid: int) -> list[str]:
    """Return namespaces and files of the demo with this process id, and processes that use its files."""
    found = namespaces.remains(pid)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if f"vxdemo-{pid}" in command:
            found.append(command)
    return found


def wait_for(event: Callable[[], bool], demo: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Return once the event has happened while the demo runs."""
    end = time.monotonic() + END_S
    while not event():
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("peer", ["kernel", "vxland"])
def test_all_checks_pass(peer: str, tmp_path: Path) -> None:
    """The walk-through passes with the kernel's vxlan and with vxland, prints one JSON object, writes a page.

    With vxland it runs from the wheel, installed outside of this tree with the packages that vxland declares.
    """
    page = tmp_path / "page.html"
    options = ("--json", "--peer", peer, "--report", str(page))
    if peer == "vxland":
        venv = installed_wheel(tmp_path)
        gear = "from vxland.forwarding import pump; print(pump.__file__)"
        found_at = subprocess.run([venv / "bin/python", "-P", "-c", gear], check=True, capture_output=True, text=True)
        assert found_at.stdout.startswith(f"{venv}/")
        assert found_at.stdout.endswith(".so\n")
        demo = start(*options, command=(str(venv / "bin" / "vxland"),))
    else:
        demo = start(*options)
    out, err = demo.communicate(timeout=END_S)
    found = json.loads(out)
    assert [check for check in found["checks"] if not check["passed"]] == []
    assert found["passed"], err
    assert demo.returncode == 0
    assert err == ""
    assert {key for check in found["checks"] for key in check} == {"name", "passed", "detail"}
    cni0, flannel, ens33 = found["captures"]
    assert [hop["device"] for hop in (cni0, flannel, ens33)] == ["cni0", "flannel.1", "ens33"]
    assert [hop["packets"] for hop in (cni0, flannel, ens33)] == [6, 6, 6]
    assert cni0["packet"]["ipv4"]["ttl"] == 64
    assert flannel["packet"]["ipv4"]["ttl"] == ens33["packet"]["inner"]["ipv4"]["ttl"] == 63
    assert ens33["packet"]["vxlan"] == {"flags": 8, "vni": 1, "reserved": 0}
    assert found["iperf"] > 0
    assert found["iperf_reverse"] > 0
    assert traces(demo.pid) == []
    assert all(check["name"].replace("'", "&#39;") in page.read_text() for check in found["checks"])
    if peer == "kernel":
        open_page(page, found)


def open_page(page: Path, found: dict[str, Any]) -> None:
    """In Chromium: the topology, every byte of each packet, layers with distinct colours, fields by keyboard."""
    if PROGRAM is None:
        pytest.skip("the page was written but not opened: apt-get install chromium")
    with Browser() as browser:
        check_page(browser, page)
        for width, form in ((1280, "wide"), (400, "tall")):
            browser.open(page, width)
            shown = "[...document.querySelectorAll('.topology')].filter(e => e.checkVisibility())"
            assert browser.evaluate(f"{shown}.map(e => e.classList[1])") == [form]
            box = browser.evaluate(f"(b => [b.width, b.height])({shown}[0].getBoundingClientRect())")
            assert min(box) > 300
            assert "kernel vxlan device" in browser.evaluate(f"{shown}[0].textContent")
        request = "document.querySelector('#hop-3 .packet')"
        cells = browser.evaluate(f"[...{request}.querySelectorAll('.byte')].map(e => e.textContent).join('')")
        assert cells == found["captures"][2]["packet"]["hex"]
        colours = "[...document.querySelectorAll('#hop-3 .packet:first-child .fields .layer span:first-child')]"
        drawn = browser.evaluate(f"{colours}.map(e => getComputedStyle(e).backgroundColor)")
        assert len(drawn) == len(set(drawn)) == 8
        byte = browser.evaluate(f"getComputedStyle({request}.querySelector('.byte.vxlan')).backgroundColor")
        assert byte == drawn[3]
        browser.evaluate(f"{request}.querySelector('.fields').focus()")
        browser.press("ArrowDown")
        marked = browser.evaluate(f"{request}.querySelectorAll('.byte.on').length")
        assert marked == 6  # the destination of the outer Ethernet header


def test_an_unwritable_page_is_refused_first(tmp_path: Path) -> None:
    """A missing directory: exit 2, one line with key, value and remedy, and no demo."""
    demo = start("--report", str(tmp_path / "none" / "page.html"))
    out, err = demo.communicate(timeout=END_S)
    assert (demo.returncode, out) == (2, "")
    assert err.startswith("vxland: --report: ")
    assert "name a file in a directory that exists" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("options", [("--cni",), ("--peer", "kernel")], ids=["cni", "kernel"])
def test_all_checks_pass_over_etcd(options: tuple[str, ...]) -> None:
    """The same with leases in a real etcd: pods attached by CNI plugins on two vxlands, or the kernel as the peer."""
    demo = start("--json", "--registry", "etcd", *options)
    out, err = demo.communicate(timeout=END_S)
    assert demo.returncode == 0, err + out
    found = json.loads(out)
    assert [check for check in found["checks"] if not check["passed"]] == []
    assert len([check for check in found["checks"] if check["name"].startswith("etcd: ")]) == 3
    assert [hop["packets"] for hop in found["captures"]] == [6, 6, 6]
    data = '"BackendData":{"VNI":1,"VtepMAC":"ce:5f:f6:73:cf:b9"}'
    assert found["leases"][0] == {
        "key": "/coreos.com/network/subnets/10.244.0.0-24",
        "value": f'{{"PublicIP":"192.168.111.128","PublicIPv6":null,"BackendType":"vxlan",{data}}}',
    }
    assert found["cni"] == ("--cni" in options)
    addresses = [pod["address"] for pod in found["pods"]]
    assert addresses == (
        ["10.244.0.2", "10.244.0.3", "10.244.1.2", "10.244.1.3"]
        if found["cni"]
        else ["10.244.0.19", "10.244.0.18", "10.244.1.13", "10.244.1.14"]
    )
    assert sum("tached by CNI" in check["name"] for check in found["checks"]) == (8 if found["cni"] else 0)
    assert traces(demo.pid) == []


def test_a_transfer_waits_for_its_server(netns: Callable[[], Any]) -> None:
    """iperf3's server closes its port between two transfers; a client that connects just then retries."""
    name: str = netns().name

    class Here(namespaces.Lab):
        def namespace(self, of: object) -> str:  # noqa: ARG002  (there is only one)
            return name

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(traffic.transfer, Here(), POD_A, IPv4Address("127.0.0.1"), 1)
        end = time.monotonic() + END_S
        while not shell.pids_in(name):  # the first client, which finds no server
            assert time.monotonic() < end
        server = subprocess.Popen(shell.exec_in(name, "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
        try:
            found = done.result()
        finally:
            server.kill()
            server.wait()
    assert found.error == ""
    assert found.gbit_s > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["vxdemo-{pid}-node1", "vxdemo-{pid}-pod-d", "node2.log", "iperf3.log"])
def test_a_signal_removes_everything(number: signal.Signals, moment: str, tmp_path: Path) -> None:
    """While namespaces are made, as daemons start, under load: no remains, no JSON, and a page with the reason."""
    page = tmp_path / "page.html"
    demo = start("--json", "--report", str(page))
    place = shell.NETNS_DIR if "{pid}" in moment else namespaces.RUN_DIR / f"vxdemo-{demo.pid}"
    wait_for((place / moment.format(pid=demo.pid)).exists, demo)
    demo.send_signal(number)
    demo.send_signal(number)  # a second signal changes nothing
    out, err = demo.communicate(timeout=END_S)
    assert traces(demo.pid) == []
    assert demo.returncode == 1
    assert out == ""
    assert "interrupted" in err
    assert "The run failed" in page.read_text()
    assert ("byte by byte" in page.read_text()) == (moment == "iperf3.log")


def test_keep_leaves_a_working_network() -> None:
    """The printed commands enter the namespaces, the daemons still forward, and the script removes everything."""
    demo = start("--keep", "--peer", "kernel")
    out, err = demo.communicate(timeout=END_S)
    try:
        assert demo.returncode == 0, out + err
        pod = f"vxdemo-{demo.pid}-pod-a"
        assert f"ip netns exec {pod} sh" in out
        ping = shell.attempt(shell.exec_in(pod, "ping", "-c", "1", "-W", "2", "10.244.1.14"))
        assert ping.returncode == 0, ping.stdout
        assert demo.pid not in namespaces.sweep()  # the next demo leaves it in place
        assert namespaces.remains(demo.pid)
        subprocess.run(["sh", str(namespaces.RUN_DIR / f"vxdemo-{demo.pid}" / "remove.sh")], check=True)
    finally:
        still = namespaces.remains(demo.pid)
        namespaces.remove(demo.pid)
    assert still == []
    assert traces(demo.pid) == []


def test_leftovers_of_a_killed_demo_are_swept() -> None:
    """The next demo removes the namespaces and processes of one that was killed."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"vxdemo-{dead.pid}-node1"
    shell.run("ip", "netns", "add", name)
    stray = subprocess.Popen(shell.exec_in(name, "sleep", "600"))
    wait_for(lambda: stray.pid in shell.pids_in(name), stray)
    try:
        assert dead.pid in namespaces.sweep()
    finally:
        shell.attempt(("ip", "netns", "del", name))
        stray.kill()
    assert stray.wait() == -signal.SIGTERM
    assert namespaces.remains(dead.pid) == []
