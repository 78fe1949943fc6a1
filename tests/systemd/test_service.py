"""The shipped units in a booted systemd, on two nodes.

node a   flannel.1 10.244.0.0 - vxland - e0 192.168.111.128 ===== .129 e0 - vxland - flannel.1 10.244.1.0   node b
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pinging import Pinging
from tests.systemd.node import Node, Service, wait_until
from vxland.lab import shell

Pair = tuple[Service, Service]

UNITS = ("vxland.service", "vxland@7.service")
CAPABILITIES = 1 << 12 | 1 << 39  # CAP_NET_ADMIN, CAP_BPF
TCP_S = 8


def report(text: str) -> None:
    """Print a measurement."""
    print(f"\n  {text}", flush=True)  # noqa: T201  (the purpose of the target)


def ping(node: Node, address: str) -> None:
    """Send five echo requests, and assert that each is answered."""
    done = shell.attempt(shell.exec_in(node.name, "ping", "-c", "5", "-i", "0.05", "-W", "5", address))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0% packet loss" in done.stdout


@contextmanager
def traffic(pair: Pair, log: Path, what: str) -> Iterator[Pinging]:
    """A ping every 10 ms and one TCP stream from a to b during the body; both end well after it."""
    a, b = (service.node for service in pair)
    server = subprocess.Popen(
        shell.exec_in(b.name, "iperf3", "-s", "-1", "-B", b.overlay), stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: ":5201" in shell.attempt(shell.exec_in(b.name, "ss", "-Hltn")).stdout, "iperf3 listens")
        client = subprocess.Popen(
            shell.exec_in(a.name, "iperf3", "-c", b.overlay, "-t", str(TCP_S), "-b", "300M", "--json"),
            stdout=subprocess.PIPE,
            text=True,
        )
        with Pinging(a.name, b.overlay, log, 0.01) as pinging:
            yield pinging
            pinging.wait(20)
        said, _ = client.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
    found: dict[str, Any] = json.loads(said)
    assert "error" not in found, found
    sent = found["end"]["sum_sent"]
    replies, lost = pinging.replies(), pinging.lost()
    report(
        f"{what}: {len(lost)} of {len(replies) + len(lost)} pings lost, the slowest took {max(replies.values()):.0f} ms"
        f"; TCP sent {sent['bytes'] / 1e6:.0f} MB, {sent['retransmits']} retransmits"
    )
    assert found["end"]["sum_received"]["bytes"] == pytest.approx(sent["bytes"], rel=0.2)


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_well_formed_and_safe(nodes: tuple[Node, Node], unit: str) -> None:
    """systemd-analyze reports no problem, and the exposure is at most 2.5."""
    verified = nodes[0].attempt("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit.replace('7', '')}")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    path = f"/usr/lib/systemd/system/{unit.replace('7', '')}"
    exposed = nodes[0].attempt("systemd-analyze", "security", "--offline=true", "--threshold=25", path)
    assert exposed.returncode == 0, exposed.stdout
    report(exposed.stdout.strip().splitlines()[-1])


def test_start(services: Pair) -> None:
    """`systemctl start` returns once frames are forwarded both ways, and the status says so."""
    for service in services:
        service.systemctl("start")
    for service, other in (services, services[::-1]):
        ping(service.node, other.node.overlay)
        assert service.show("StatusText") == "forwarding, leases of other nodes: 1"
        env = service.node.run("cat", "/run/flannel/subnet.env")
        assert f"FLANNEL_SUBNET=10.244.{service.node.number}.1/24" in env


def test_it_runs_with_two_capabilities(running: Pair) -> None:
    """A separate user with only CAP_NET_ADMIN, CAP_BPF and no new privileges, without warnings about the sandbox."""
    service = running[0]
    assert service.node.run("ps", "-o", "user=", "-p", str(service.pid)).strip() == "vxland"
    status = service.node.run("cat", f"/proc/{service.pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert {int(fields[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {CAPABILITIES}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert "[warning" not in service.log()
    assert service.node.run("cat", "/proc/sys/net/ipv6/conf/flannel.1/accept_ra").strip() == "0"


def test_peers_are_pinged(running: Pair) -> None:
    """With ping sockets, which the shipped sysctl file allows to a service without CAP_NET_RAW."""
    ctl = ("/opt/vxland/bin/python", "-m", "vxland.ctl", "peers", "--json")
    for service in running:

        def answered(node: Node = service.node) -> bool:
            (peer,) = json.loads(node.run(*ctl))
            return (peer["probe"]["state"], peer["probe"]["full_mtu"]) == ("reachable", "passes")

        wait_until(answered, "the peer answers", service.log)


def test_reload(running: Pair) -> None:
    """A valid file is applied without a restart; an invalid one makes `systemctl reload` fail, and changes nothing."""
    service = running[0]
    pid, good = service.pid, json.loads(json.dumps(service.settings))
    service.settings["registry"]["peers"].append(
        {"subnet": "10.244.9.0/24", "vtep": "192.168.111.200", "mac": "02:00:00:00:00:09"}
    )
    service.write()
    service.systemctl("reload")
    wait_until(lambda: "10.244.9.0/24" in {r["dst"] for r in service.node.ip_json("route")}, "a route", service.log)
    service.path.write_text("overlay: {vni: many}\n")
    refused = service.node.attempt("systemctl", "reload", service.unit)
    assert refused.returncode != 0
    assert "overlay.vni" in service.log()
    assert (service.pid, service.show("ActiveState")) == (pid, "active")
    service.settings = good
    service.write()
    service.systemctl("reload")
    wait_until(
        lambda: "10.244.9.0/24" not in {r["dst"] for r in service.node.ip_json("route")}, "no route", service.log
    )


def test_restart_under_traffic(running: Pair, log: Path) -> None:
    """No ping is lost, and TCP continues."""
    service = running[0]
    pid = service.pid
    with traffic(running, log, "systemctl restart") as pinging:
        service.systemctl("restart")
    assert service.pid != pid
    assert pinging.lost() == []


def test_restart_of_the_peer_under_traffic(running: Pair, log: Path) -> None:
    """The receiving side restarts; its sockets hold the datagrams of that time."""
    with traffic(running, log, "systemctl restart at the receiver") as pinging:
        running[1].systemctl("restart")
    assert pinging.lost() == []


def test_kill_under_traffic(running: Pair, log: Path) -> None:
    """A killed process is restarted; at most a burst that it was processing is lost, and TCP continues."""
    service = running[0]
    pid = service.pid
    with traffic(running, log, "kill -9") as pinging:
        service.kill(signal.SIGKILL)
        service.wait_restarted(pid)
    assert len(pinging.lost()) <= 5
    assert service.show("NRestarts") == "1"


def test_watchdog(running: Pair, log: Path) -> None:
    """A process that hangs is killed and restarted, here after 2 s instead of 30 s."""
    service = running[0]
    assert service.show("WatchdogUSec") == "30s"
    folder = f"/run/systemd/system/{service.unit}.service.d"
    service.node.run("sh", "-c", f"mkdir -p {folder}; printf '[Service]\\nWatchdogSec=2\\n' >{folder}/soon.conf")
    service.node.run("systemctl", "daemon-reload")
    service.systemctl("restart")
    pid, restarts = service.pid, int(service.show("NRestarts"))
    with traffic(running, log, "watchdog after SIGSTOP") as pinging:
        service.kill(signal.SIGSTOP)
        service.wait_restarted(pid)
    assert int(service.show("NRestarts")) == restarts + 1
    assert "Watchdog timeout" in service.node.run("journalctl", "--no-pager", "-o", "cat", "-u", service.unit)
    assert len(pinging.lost()) <= 5
    service.node.run("rm", "-r", folder)
    service.node.run("systemctl", "daemon-reload")
    service.systemctl("restart")


def test_access_to_the_control_socket(running: Pair) -> None:
    """Only root and members of the group vxland have it; others get a one-line error."""
    node = running[0].node
    for name, further in (("member", ("-G", "vxland")), ("outsider", ())):
        node.run("useradd", *further, name)
    for asking in ((), ("runuser", "-u", "member", "--")):
        assert json.loads(node.run(*asking, "vxlandctl", "status", "--json"))["not_ready"] == ""
    refused = node.attempt("runuser", "-u", "outsider", "--", "vxlandctl", "status")
    assert (refused.returncode, refused.stdout, refused.stderr) == (
        1,
        "",
        "vxlandctl: /run/vxland/control.sock: Permission denied: be root, or join the group vxland\n",
    )
    found = node.run("stat", "-c", "%A %U %G", "/run/vxland", "/run/vxland/control.sock", "/var/lib/vxland")
    assert found.splitlines() == [
        "drwxr-xr-x vxland vxland",
        "srw-rw---- vxland vxland",
        "drwx------ vxland vxland",
    ]


def test_an_archive_for_support(running: Pair) -> None:
    """A member of the group gets what the daemon knows, its events too; journald has them when the daemon is gone."""
    service, node = running[0], running[0].node
    node.run("useradd", "-m", "-G", "vxland", "helper")

    def archive(*user: str) -> tuple[dict[str, Any], str]:
        """Write one; return the summary, and the events in it."""
        answer = json.loads(node.run(*user, "vxlandctl", "support", "--json", "-o", "/tmp/support.tar.gz"))  # noqa: S108
        assert node.run("stat", "-c", "%a", "/tmp/support.tar.gz") == "600\n"  # noqa: S108
        return answer, node.run("tar", "-xzOf", "/tmp/support.tar.gz", "--wildcards", "*/events.txt")  # noqa: S108

    answer, events = archive("runuser", "-u", "helper", "--")
    assert {"status.json", "settings.json", "features.json", "kernel/links.txt"} <= set(answer["taken"])
    assert '"event": "forwarding"' in events
    node.run("rm", "/tmp/support.tar.gz")  # noqa: S108
    found = json.loads(node.run("vxland", "check", "--here", "--json"))
    assert not {each["subject"] for each in found["findings"]} & {"tun", "capabilities", "port", "device", "bpf"}, found
    service.systemctl("stop")
    answer, events = archive()
    assert answer["missing"]["status.json"].endswith("start vxland, or name its socket: --socket PATH")
    assert "forwarding" in events
    assert "stopping" in events


@pytest.mark.parametrize("flavour", ["nftables", "iptables"])
def test_firewall_rules_in_the_sandbox(running: Pair, flavour: str) -> None:
    """CAP_NET_ADMIN is sufficient for masquerade rules, with nft and with iptables-nft."""
    service = running[0]
    service.settings["firewall"] = {"masquerade": True, "flavour": flavour}
    try:
        service.write()
        service.systemctl("restart")
        listed = service.node.run("nft", "list", "ruleset")
        assert "masquerade" in listed
        assert service.show("StatusText").startswith("forwarding")
    finally:
        del service.settings["firewall"]
        service.write()
        service.systemctl("restart")


def test_input_filter_in_the_sandbox(running: Pair) -> None:
    """Nft works in the sandbox: datagrams of an unknown sender are dropped until it has a lease."""
    a, service, outsider = running[0].node, running[1], "192.168.111.200"
    good = json.loads(json.dumps(service.settings))

    def ask(*words: str) -> Any:  # noqa: ANN401  as JSON has it
        return json.loads(service.node.run("vxlandctl", *words, "--json"))

    def elements() -> str:
        return service.node.attempt("nft", "list", "set", "ip", "vxland-flannel.1", "hosts").stdout

    def filtered() -> int:
        return int(ask("status")["planes"][0]["input_filter"]["dropped"])

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((outsider, 0))
            for _ in range(5):
                sock.sendto(bytes(64), (service.node.address, 8472))

    def dropped() -> dict[str, int]:
        drops = ask("stats")["decap"]["drops"]
        for counted in ("socket_queue_full", "input_filtered"):  # drops of the filters, as the kernel counts them
            drops.pop(counted, None)
        return {reason: count for reason, count in drops.items() if count}

    shell.ip_batch(a.name, (f"addr add {outsider}/24 dev e0",))
    service.settings |= {"security": {"input_filter": "nftables"}, "firewall": {"resync_s": 1}}
    try:
        service.write()
        service.systemctl("restart")
        wait_until(lambda: a.address in elements(), "the filter's table", service.log)
        shell.inside(a.name, send)
        wait_until(lambda: filtered() == 5, "the kernel drops them", service.log)
        assert dropped() == {}
        ping(a, service.node.overlay)
        service.settings["registry"]["peers"].append(
            {"subnet": "10.244.9.0/24", "vtep": outsider, "mac": "02:00:00:00:00:09"}
        )
        service.write()
        service.systemctl("reload")
        wait_until(lambda: "10.244.9.0/24" in {r["dst"] for r in service.node.ip_json("route")}, "the reload")
        wait_until(lambda: outsider in elements(), "its address is in the set", elements)
        shell.inside(a.name, send)
        wait_until(lambda: dropped() == {"i_flag_clear": 5}, "vxland drops them", lambda: str(dropped()))
        assert "input_filter_failed" not in service.log()
        service.systemctl("stop")
        assert elements() == ""
    finally:
        shell.ip_batch(a.name, (f"addr del {outsider}/24 dev e0",))
        service.settings.clear()
        service.settings.update(good)
        service.write()
        service.systemctl("restart")


def test_instance(running: Pair) -> None:
    """vxland@7.service runs a second overlay in parallel, with its own file, device and port."""
    second = [Service(each.node, "vxland@7", 7, 8479, "10.77") for each in running]
    for service in second:
        service.write()
        service.systemctl("start")
    for service in second:
        ping(service.node, f"10.77.{1 - service.node.number}.0")
        ping(service.node, f"10.244.{1 - service.node.number}.0")
        assert "FLANNEL_NETWORK=10.77.0.0/16" in service.node.run("cat", "/run/vxland-7/subnet.env")
        status = json.loads(service.node.run("vxlandctl", "--instance", "7", "status", "--json"))
        assert [plane["vni"] for plane in status["planes"]] == [7]
        assert "[warning" not in service.log()
    for service in second:
        service.systemctl("stop")


def test_stop_and_start_under_traffic(running: Pair, log: Path) -> None:
    """A stop closes the descriptors, and leaves device, addresses and routes: pings are lost, TCP continues."""
    service = running[0]
    with traffic(running, log, "systemctl stop, then start"):
        service.systemctl("stop")
        assert (service.show("Result"), service.show("NFileDescriptorStore")) == ("success", "0")
        assert service.node.ip_json("addr show flannel.1")
        assert "10.244.1.0/24" in {route["dst"] for route in service.node.ip_json("route")}
        service.systemctl("start")
    assert int(service.show("NFileDescriptorStore")) == 2 + 2 + 16
