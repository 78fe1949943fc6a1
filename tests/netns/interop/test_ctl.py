"""Output of vxlandctl for a running node, compared with the kernel and the wire.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)
"""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.patience import PATIENCE_S
from vxland.ctl.cli import main
from vxland.lab import shell

from .asking import ask, ask_json, control
from .daemon import ROOT, plain
from .lab import FAMILIES, Family, Lab, Vxland
from .ns import wait_until
from .traffic import ping
from .wire import Capture

pytestmark = pytest.mark.netns


def test_status(lab: Lab) -> None:
    """Status names the gear, the kernel's device, and every offload that is off with its reason."""
    status, text = ask_json(lab.vxland, "status"), ask(lab.vxland, "status")
    assert (status["gear"], status["pid"], status["not_ready"]) == (lab.vxland.gear, lab.vxland.pid, "")
    (plane,) = status["planes"]
    assert (plane["device"], plane["mac"], plane["mtu"]) == ("flannel.1", lab.a.mac(), lab.a.mtu)
    assert plane["subnets"] == list(lab.a.subnet.values())
    assert plane["underlay"]["address"] == lab.a.vtep
    assert (status["registry"]["kind"], status["registry"]["leases"]) == ("static", 2)
    assert plane["reconcile"]["pending"] == 0
    assert plane["reconcile"]["mended"]["replace_route"] >= 2
    off = set(plane["offloads"]) - {"join_udp"} if lab.vxland.gear == "interpreted" else set()
    assert set(plane["offloads_off"]) == off
    for part in (
        lab.vxland.gear,
        f"pid {lab.vxland.pid}",
        "ready      yes",
        lab.a.mac(),
        lab.a.vtep,
        "no rules wanted",
    ):
        assert part in text
    assert text.count("frame by frame") == len(off)


def test_peers(lab: Lab) -> None:
    """One line per lease; its age restarts when the lease changes, and only then."""
    (known,) = lab.vxland.peers
    peers = ask_json(lab.vxland, "peers")
    assert [(peer["subnet"], peer["vtep"], peer["mac"], peer["device"]) for peer in peers] == [
        (lab.b.subnet[family], lab.b.vtep, known["mac"], "flannel.1") for family in FAMILIES
    ]
    _, *lines = ask(lab.vxland, "peers").splitlines()
    assert [line.split()[:4] for line in lines] == [
        [lab.b.subnet[family], lab.b.vtep, known["mac"], "flannel.1"] for family in FAMILIES
    ]
    other = {"subnet": ["10.244.2.0/24"], "vtep": "192.168.111.130", "mac": "02:00:00:00:00:0c"}
    lab.vxland.peers.append(other)
    try:
        lab.vxland.reload()
        wait_until(lambda: len(ask_json(lab.vxland, "peers")) == 3, "a third lease")
        ages = {peer["subnet"]: peer["age_s"] for peer in ask_json(lab.vxland, "peers")}
        assert ages["10.244.2.0/24"] < ages[lab.b.subnet[4]]
    finally:
        lab.vxland.peers.remove(other)
        lab.vxland.reload()


def test_stats(lab: Lab) -> None:
    """Forwarded frames are counted both ways, and --watch prints the difference."""
    before = ask_json(lab.vxland, "stats")
    ping(lab.a.pod_ns, lab.b.pod[4])

    def counted() -> bool:
        """A frame may arrive a moment before it is counted."""
        after = ask_json(lab.vxland, "stats")
        least = {"frames": 3, "bytes": 3 * 98}
        return all(after[way][what] >= before[way][what] + n for way in ("encap", "decap") for what, n in least.items())

    wait_until(counted, "three frames each way")
    assert ask(lab.vxland, "stats").splitlines()[1].split()[0] == "frames"
    rates = [
        json.loads(line) for line in ask(lab.vxland, "stats", "--watch", "0.05", "--count", "2", "--json").splitlines()
    ]
    assert [set(rate) for rate in rates] == [{"seconds", "encap", "decap"}] * 2
    head, line = ask(lab.vxland, "stats", "--watch", "0.05", "--count", "1").splitlines()
    assert head.split()[0] == "ENCAP/s"
    assert len(line.split()) >= 6


def test_plan(lab: Lab) -> None:
    """Nothing to do at rest; an action that the kernel refuses stays in the plan, as its command."""
    assert ask(lab.vxland, "plan") == "# flannel.1: nothing to change\n"
    assert ask_json(lab.vxland, "plan") == {"flannel.1": []}
    switch = "net/ipv6/conf/flannel.1/disable_ipv6"  # the device's name contains a dot
    shell.run(*shell.exec_in(lab.a.ns.name, "sysctl", "-q", "-w", f"{switch}=1"))
    try:
        route = f"ip -6 route replace {lab.b.subnet[6]} via {lab.b.base[6]} dev flannel.1 onlink"
        wait_until(lambda: route in ask(lab.vxland, "plan").splitlines(), "the route is planned")
        assert route in ask_json(lab.vxland, "plan")["flannel.1"]
        assert ask_json(lab.vxland, "status")["not_ready"] == ""
    finally:
        shell.run(*shell.exec_in(lab.a.ns.name, "sysctl", "-q", "-w", f"{switch}=0"))
        lab.vxland.reload()
    assert ask(lab.vxland, "plan") == "# flannel.1: nothing to change\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_trace_agrees_with_the_wire(lab: Lab, family: Family) -> None:
    """The datagram of a real flow has the outer addresses, ports, TTL and MACs that trace predicted."""
    source, target = lab.a.pod[family], lab.b.pod[family]
    with lab.a.pod_ns.socket(source) as sender, Capture(lab.a.ns) as capture:
        sport = sender.getsockname()[1]
        found = ask_json(lab.vxland, "trace", source, target, "udp", str(sport), "5353")
        sender.sendto(b"traced", (target, 5353))
        (sent,) = capture.wait(lambda each: each.inner.payload.dst == target and bytes(each.inner).endswith(b"traced"))
    outer = found["outer"]
    assert (found["direction"], found["verdict"]) == ("encap", "forward")
    assert (outer["src"], outer["dst"], outer["udp_src"]) == (sent.outer_src, sent.outer_dst, sent.src_port)
    assert (outer["ttl"], outer["tos"], outer["df"]) == (sent.outer_ttl, sent.outer_tos, sent.dont_fragment)
    assert (outer["vxlan_flags"], outer["vni"]) == (sent.flags, sent.vni)
    assert outer["length"] + len(b"traced") == sent.outer_len
    assert bytes.fromhex(outer["payload"])[8:22] == bytes(sent.inner)[:14]
    text = ask(lab.vxland, "trace", source, target, "udp", str(sport), "5353")
    assert f"UDP {sent.src_port} > 8472" in text
    assert text.endswith("verdict  forward\n")


def test_traces_of_undeliverable_and_received_packets(lab: Lab) -> None:
    """No lease, a peer's packet, and an unknown sender's: each with what to check."""
    assert "look at  a route into the overlay that no lease backs" in ask(
        lab.vxland, "trace", lab.a.pod[4], "10.244.9.9"
    )
    assert f"{lab.b.vtep} is a leased VTEP" in ask(lab.vxland, "trace", lab.b.pod[4], lab.a.pod[4], "tcp", "80")
    assert ask_json(lab.vxland, "trace", "10.244.9.9", lab.a.pod[4])["reason"] == "unknown_vtep"
    assert "SRC: 'pod': use an IPv4 or IPv6 address" in ask(lab.vxland, "trace", "pod", lab.a.pod[4], code=2)
    assert "different families" in ask(lab.vxland, "trace", lab.a.pod[6], lab.b.pod[4], code=2)


def test_reload(lab: Lab) -> None:
    """A changed file is applied; one that needs a restart is refused with a line per problem, and nothing changes."""
    settings = copy.deepcopy(lab.vxland.settings)
    try:
        lab.vxland.settings["security"]["source_check"] = "off"
        lab.vxland.write()
        assert ask(lab.vxland, "reload") == "reloaded\n"
        assert ask_json(lab.vxland, "status")["planes"][0]["source_check"] == "off"
        lab.vxland.settings["overlay"]["vni"] = 2
        lab.vxland.settings["security"]["source_check"] = "vtep"
        lab.vxland.write()
        done = CliRunner().invoke(main, ["reload", "--socket", str(control(lab.vxland))])
        assert (done.exit_code, done.stdout) == (2, "overlay.vni: 2: restart vxland to change it: it runs with 1\n")
        assert ask_json(lab.vxland, "status")["planes"][0]["source_check"] == "off"
    finally:
        lab.vxland.settings = settings
        lab.vxland.reload()


def test_top(lab: Lab) -> None:
    """One screen on request: the node, rates by direction, drops and peers."""
    text = ask(lab.vxland, "top", "--once", "--interval", "0.05")
    for part in ("ready", "encap", "decap", "frames/s", lab.b.subnet[4], lab.b.vtep):
        assert part in text
    view = ask_json(lab.vxland, "top", "--once", "--interval", "0.05")
    assert view["status"]["gear"] == lab.vxland.gear
    assert len(view["peers"]) == 2
    assert set(view["rates"]) == {"seconds", "encap", "decap"}


def test_top_in_a_pipe(lab: Lab) -> None:
    """It prints one view after the other, and ends with its reader. It printed none, and went on."""
    command = (sys.executable, "-m", "vxland.ctl", "--socket", str(control(lab.vxland)), "top", "--interval", "0.05")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as shown:
        assert shown.stdout is not None
        for _ in range(2):
            assert any(b"TAP to UDP" in line for line in shown.stdout)
        shown.stdout.close()
        assert shown.wait(PATIENCE_S) == 1


@contextmanager
def watched_by_top(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Run `vxlandctl top` on a terminal; yield a function that waits for a text on it. At last q ends it."""
    command = (sys.executable, "-m", "vxland.ctl", "--socket", str(control(lab.vxland)), "top", "--interval", "0.05")
    here, there = os.openpty()

    def wait_for(text: str) -> None:
        seen = b""
        while text.encode() not in seen:
            seen += os.read(here, 4096)

    with subprocess.Popen(command, cwd=ROOT, stdin=there, stdout=there, stderr=there) as shown:
        os.close(there)
        try:
            yield wait_for
            os.write(here, b"q")
            with suppress(OSError):  # the end of a terminal whose other side is closed
                while os.read(here, 4096):
                    pass
            assert shown.wait(PATIENCE_S) == 0
        finally:
            shown.kill()
            os.close(here)


def test_malformed_requests_do_not_disturb(lab: Lab) -> None:
    """After any bytes on the socket, frames are forwarded and the next client is served."""
    for request in (b"\0" * 4096 + b"\n", b"[" * 60_000 + b"\n", b"x" * 200_000, b"", b'{"command": "peers"}\n'):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(control(lab.vxland)))
            try:
                sock.sendall(request)
            except BrokenPipeError:
                continue
    ping(lab.a.pod_ns, lab.b.pod[4])
    assert ask_json(lab.vxland, "status")["pid"] == lab.vxland.pid


def test_a_second_daemon_on_the_device(lab: Lab) -> None:
    """It ends with one line, and the first one keeps its socket."""
    done = subprocess.run(
        lab.vxland.command(), cwd=ROOT, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    (line,) = plain(done.stderr).splitlines()
    assert line.startswith("vxland: the TAP flannel.1 is in use by another process")
    assert ask_json(lab.vxland, "status")["pid"] == lab.vxland.pid


def test_a_dead_daemons_socket_is_replaced(lab: Lab) -> None:
    """After kill -9 the file is still there; the error says so, and the next daemon answers on it.

    `vxlandctl top` ended when the daemon did, in the middle of an upgrade; it waits for the next one.
    """
    with watched_by_top(lab) as wait_for:
        wait_for("TAP to UDP")
        lab.vxland.stop(signal.SIGKILL)
        wait_for("waiting for the daemon")
        assert control(lab.vxland).is_socket()
        assert "that vxland is dead" in ask(lab.vxland, "status", code=1)
        lab.vxland.start()
        wait_for("TAP to UDP")
    assert ask_json(lab.vxland, "status")["pid"] == lab.vxland.pid


def test_a_second_daemon_with_the_same_socket(lone: Vxland, tmp_path: Path) -> None:
    """One for another device forwards without a control socket and logs it; the first one continues to answer."""
    lone.start()
    (tmp_path / "second").mkdir()
    second = Vxland(lone.node, tmp_path / "second", "compiled")
    second.settings["control"] = lone.settings["control"]
    second.settings["overlay"] |= {"vni": 2, "port": 8473}
    second.write()
    with second.log.open("wb") as log, subprocess.Popen(second.command(), cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: second.events("forwarding"), "the second one forwards", second.log.read_text)
            (event,) = second.events("control_off")
            assert event["cause"] == f"control.socket: {control(lone)} is in use: a second vxland on this node?"
            assert event["remedy"] == "stop it, or choose another control.socket for one of them"
            assert ask_json(lone, "status")["pid"] == lone.pid
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert ask_json(lone, "status")["pid"] == lone.pid


def test_stopping_removes_the_socket(lone: Vxland) -> None:
    """A stopped node leaves no socket file."""
    lone.start()
    assert control(lone).stat().st_mode & 0o777 == 0o660
    assert ask(lone, "peers") == "no peers\n"
    assert lone.stop() == 0
    assert not control(lone).exists()
    assert "start vxland" in ask(lone, "status", code=1)


def test_a_place_that_cannot_be_written(lone: Vxland) -> None:
    """The log names key, path and remedy, and the node forwards without a control socket."""
    lone.settings["control"]["socket"] = "/proc/vxland/control.sock"
    lone.start()
    (event,) = lone.events("control_off")
    assert event["cause"].startswith("control.socket: /proc/vxland/control.sock cannot be made: ")
    assert "choose another control.socket" in event["remedy"]


def listens(path: Path) -> bool:
    """Return whether a daemon listens at this socket; the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_status_while_the_store_is_unavailable(lone: Vxland) -> None:
    """A node that waits for its store reports so, has nothing to plan or trace yet, and can be stopped."""
    lone.settings = {
        "registry": {"kind": "etcd"},
        "etcd": {"endpoints": ["http://127.0.0.1:1"]},
        "control": lone.settings["control"],
        "metrics": {"listen": ""},
    }
    lone.write()
    with lone.log.open("wb") as log, subprocess.Popen(lone.command(), cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: listens(control(lone)), "a control socket", lone.log.read_text)
            wait_until(lambda: "127.0.0.1:1" in ask_json(lone, "status")["not_ready"], "the reason")
            status = ask_json(lone, "status")
            assert "waiting for the network's configuration" in status["not_ready"]
            assert (status["planes"], status["registry"]["kind"]) == ([], "etcd")
            assert status["registry"]["error"]
            assert "cannot be read" in ask(lone, "status")
            assert ask(lone, "plan") == "# no device yet\n"
            assert ask(lone, "peers") == "no peers\n"
            assert "there is no device yet" in ask(lone, "trace", "10.0.0.1", "10.0.0.2", code=1)
            assert "frames" in ask(lone, "stats")
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert not control(lone).exists()
