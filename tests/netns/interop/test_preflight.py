"""`vxland check --here` on a machine with faults, and what `vxland run` logs about its host.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (kernel vxlan) - cni0 - pod b     (lab.py has the addresses)

Every remedy that is a command is run as it is written, and the finding is gone then.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vxland.lab import shell

from .conftest import running
from .lab import PORT, Lab, Node, Vxland
from .starting import check
from .traffic import ping

pytestmark = [pytest.mark.netns, pytest.mark.once]

DROP = ("-net_admin", "-bpf", "-sys_admin")
MANAGED_HOST = """
mount -t tmpfs none /run
mkdir -p /run/udev /run/NetworkManager/conf.d /run/systemd/network
touch /run/udev/control
printf '[Match]\\nOriginalName=*\\n[Link]\\nMACAddressPolicy=persistent\\n' >/run/systemd/network/98-default.link
%s
exec "$@"
"""
"""A mount namespace in which udev and NetworkManager seem to run, and a step more."""

FALSE_FLANNELD = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'flanneld'); print(flush=True); time.sleep(1e6)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a filters its reverse paths strictly, before vxland starts; node b has the kernel's device."""
    made = Lab(tmp_path_factory.mktemp("lab"), "compiled")
    build = made.build

    def strict() -> None:
        build()
        for scope in ("all", "default"):
            shell.set_sysctl(made.a.ns.name, f"ipv4.conf.{scope}.rp_filter", 1)

    made.build = strict  # type: ignore[method-assign]
    yield from running(made)


def examined(vxland: Vxland, *wrapper: str) -> tuple[int, list[dict[str, Any]]]:
    """Run `vxland check --here --json` in node a, behind a wrapper; return exit code and findings."""
    if not wrapper:
        done = check(vxland, "--here", "--json")
    else:
        vxland.write()
        command = vxland.vxland("check", "-c", str(vxland.path), "--here", "--json")
        ip, netns, execute, name, *rest = command
        done = shell.attempt((ip, netns, execute, name, *wrapper, *rest))
    answer = json.loads(done.stdout)
    assert answer["problems"] == [], answer
    assert answer["ok"] is (done.returncode == 0)
    return done.returncode, answer["findings"]


def subjects(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return level and subject of each finding."""
    return [(each["level"], each["subject"]) for each in findings]


def test_a_machine_in_order(vxland: Vxland) -> None:
    """Nothing is found, in the file or on the machine, and the exit code is 0."""
    vxland.settings["datapath"]["fast_path"] = "auto"
    done = check(vxland, "--here")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{vxland.path}: good\n", "")


def test_what_keeps_pods_from_other_nodes(node: Node, vxland: Vxland) -> None:
    """Forwarding off, FORWARD that drops, strict filters, a bridge with too large an MTU: packets just vanished."""
    name = node.ns.name
    shell.set_sysctl(name, "ipv4.ip_forward", 0)
    for scope in ("all", "default", "e0"):
        shell.set_sysctl(name, f"ipv4.conf.{scope}.rp_filter", 1)
    node.ns.ip("link set cni0 mtu 1500")
    node.ns.run("iptables", "-P", "FORWARD", "DROP")
    node.ns.batch(
        "link add e9 type veth peer name e8", "link set e8 up", "link set e9 up", "route add 192.168.111.129 dev e9"
    )
    try:
        code, found = examined(vxland)
        forward = [("error", "forwarding")] * 3
        assert (code, subjects(found)) == (2, [*forward, *[("warning", "rp_filter")] * 2, ("warning", "mtu")])
        assert found[0]["found"].startswith("net.ipv4.ip_forward is 0")
        assert "packets to the VTEP 192.168.111.129 leave from e9" in found[4]["found"]
        assert "cni0 has the MTU 1500, and the overlay carries 1450" in found[5]["found"]
        for each in (found[0], found[3], found[4]):
            node.ns.run(*each["remedy"].partition(",")[0].split())
        vxland.settings["firewall"] = {"forward": True}  # vxland adds the rules: the policy is no obstacle
        code, found = examined(vxland)
        assert (code, [each for each in subjects(found) if each[1] != "br_netfilter"]) == (0, [("warning", "mtu")])
        text = check(vxland, "--here")
        assert (text.returncode, text.stdout) == (0, f"{vxland.path}: good\n")
        assert "warning: mtu: cni0 has the MTU 1500" in text.stderr
    finally:
        node.ns.batch("link delete e9", f"link set cni0 mtu {node.mtu}")
        node.ns.run("iptables", "-P", "FORWARD", "ACCEPT")
        for scope in ("all", "default", "e0"):
            shell.set_sysctl(name, f"ipv4.conf.{scope}.rp_filter", 0)


def test_a_bridge_of_a_former_subnet(node: Node, vxland: Vxland) -> None:
    """After `kubeadm reset` and `join` no pod of the node started: its subnet was another one, cni0 was the same."""
    gateway = f"{node.gateway[4]}/24"
    node.ns.batch(f"addr del {gateway} dev cni0", "addr add 10.244.77.1/24 dev cni0")
    try:
        code, found = examined(vxland)
    finally:
        node.ns.batch("addr del 10.244.77.1/24 dev cni0", f"addr add {gateway} dev cni0")
    assert (code, subjects(found)) == (0, [("warning", "bridge")])
    assert "cni0 has the address 10.244.77.1/24" in found[0]["found"]
    assert found[0]["remedy"] == "ip link delete cni0"
    assert examined(vxland) == (0, [])


def test_an_underlay_in_another_namespace(node: Node, vxland: Vxland) -> None:
    """Its sockets are handed in: neither port nor interface is here, and the rest is checked."""
    vxland.settings["underlay"] |= {"sockets": "inherited", "mtu": 1500}
    shell.set_sysctl(node.ns.name, "ipv4.conf.default.rp_filter", 1)
    try:
        with node.ns.socket(node.vtep, port=PORT):
            code, found = examined(vxland)
    finally:
        shell.set_sysctl(node.ns.name, "ipv4.conf.default.rp_filter", 0)
    assert (code, subjects(found)) == (0, [("warning", "rp_filter")])


def test_what_keeps_vxland_from_starting(node: Node, vxland: Vxland) -> None:
    """The port's owner, flannel's own device, and a flanneld: each by name, before vxland is started."""
    node.ns.batch("link add flannel.1 type vxlan id 1 dev e0 dstport 4789 nolearning")
    node.ns.batch(f"link add vx type vxlan id 9 dev e0 dstport {PORT}")
    with (
        node.ns.socket(node.vtep, port=PORT),
        subprocess.Popen(
            shell.exec_in(node.ns.name, "python3", "-c", FALSE_FLANNELD), stdout=subprocess.PIPE
        ) as flanneld,
    ):
        try:
            assert flanneld.stdout is not None
            flanneld.stdout.readline()
            code, found = examined(vxland)
        finally:
            flanneld.kill()
    assert (code, subjects(found)) == (2, [("error", "device"), ("error", "port"), ("warning", "flanneld")])
    assert found[0]["found"] == "flannel.1 exists and is no TAP of ours"
    me = Path("/proc/self/comm").read_text().strip()
    assert found[1]["found"] == f"UDP port {PORT} is held by {me} (pid {os.getpid()})"
    assert f"process {flanneld.pid}" in found[2]["found"]
    code, found = examined(vxland)
    assert subjects(found) == [("error", "device"), ("warning", "port")]
    assert "vx has UDP port 8472 too, and is down" in found[1]["found"]
    for device in ("vx", "flannel.1"):
        node.ns.ip(f"link delete {device}")
    node.ns.batch("link add vx type vxlan id 1 dev e0 dstport 4789")
    code, found = examined(vxland)
    node.ns.ip("link delete vx")
    assert (code, subjects(found)) == (0, [("warning", "port")])
    assert found[0]["remedy"] == "set overlay.port: 4789, or delete vx"


def test_without_privileges_and_without_the_driver(vxland: Vxland) -> None:
    """Each is found, and so is the part of the machine that could not be examined."""
    vxland.settings["datapath"]["fast_path"] = "auto"
    drop = ",".join(DROP)
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    code, found = examined(vxland, *hidden, "setpriv", "--bounding-set", drop, "--inh-caps", drop)
    assert code == 2
    assert subjects(found) == [
        ("error", "tun"),
        ("error", "capabilities"),
        ("warning", "forwarding"),
        ("warning", "bpf"),
    ]
    assert found[0]["remedy"].startswith("run 'modprobe tun'")
    assert "CAP_NET_ADMIN" in found[1]["found"]
    assert "vxland needs the capabilities BPF and NET_ADMIN" in found[3]["found"]


def test_programs_that_change_devices(vxland: Vxland) -> None:
    """NetworkManager and udev, each with the file that keeps it from flannel.1 and the bridge."""
    managed = ("unshare", "--mount", "sh", "-ec", MANAGED_HOST % "", "sh")
    code, found = examined(vxland, *managed)
    assert (code, subjects(found)) == (0, [("warning", "network_manager"), ("warning", "mac_policy")])
    assert "NetworkManager may manage flannel.1 and cni0" in found[0]["found"]
    assert "MACAddressPolicy=persistent in /run/systemd/network/98-default.link" in found[1]["found"]
    unmanaged = found[0]["remedy"].partition("[keyfile] ")[2].partition(",")[0]
    files = (
        f"printf '[keyfile]\\n%s\\n' '{unmanaged}' >/run/NetworkManager/conf.d/vxland.conf\n"
        "printf '[Match]\\nOriginalName=flannel.1\\n[Link]\\nMACAddressPolicy=none\\n' "
        ">/run/systemd/network/10-vxland.link"
    )
    assert examined(vxland, *managed[:-2], MANAGED_HOST % files, "sh") == (0, [])


def test_a_user_that_does_not_exist(vxland: Vxland) -> None:
    """`security.user` is a problem of the settings that only this machine shows."""
    vxland.settings["security"]["user"] = "no-such-user"
    assert check(vxland).returncode == 0
    done = check(vxland, "--here")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert done.stdout.startswith("security.user: 'no-such-user': create this user")


def test_a_store_that_does_not_answer(vxland: Vxland) -> None:
    """The check ends, and says what it assumes."""
    vxland.settings = {
        "registry": {"kind": "etcd"},
        "etcd": {"endpoints": ["http://127.0.0.1:1"]},
        "underlay": {"interface": "e0"},
    }
    code, found = examined(vxland)
    assert (code, subjects(found)) == (0, [("warning", "registry")])
    assert "etcd does not say which network this is" in found[0]["found"]


def test_vxland_logs_what_hurts_and_the_remedy_helps(lab: Lab) -> None:
    """Packets that a node's own programs sent into the overlay were lost, and no counter of vxland's said so."""
    (event,) = lab.vxland.events("host_problem")
    assert (event["level"], event["subject"]) == ("warning", "rp_filter")
    assert event["found"] == "the reverse path filter is strict on flannel.1"
    command = ("ping", "-c1", "-W1", "-I", lab.b.underlay[4], lab.a.pod[4])
    lab.a.pod_ns.ip(f"route add {lab.b.underlay[4]} via {lab.a.gateway[4]}")
    assert lab.b.ns.attempt(*command).returncode == 1
    ping(lab.b.pod_ns, lab.a.pod[4])
    lab.a.ns.run(*event["remedy"].split())
    shell.set_sysctl(lab.a.ns.name, "ipv4.conf.e0.rp_filter", 0)
    ping(lab.b.ns, lab.a.pod[4], 56, "-I", lab.b.underlay[4])


def test_a_vxland_that_runs_is_no_obstacle(lab: Lab) -> None:
    """On a node in operation, device and port are vxland's own."""
    lab.vxland.reload()
    code, found = examined(lab.vxland)
    assert (code, [each for each in subjects(found) if each[1] in {"port", "device"}]) == (0, [])
    assert len(lab.vxland.events("host_problem")) == 1


def test_iptables_that_do_not_see_bridged_packets(node: Node, vxland: Vxland) -> None:
    """A pod did not reach a Service on its own node."""
    key = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not node.ns.inside(key.exists):
        pytest.skip("this kernel has no br_netfilter")
    vxland.settings["firewall"] = {"masquerade": True, "flavour": "iptables"}
    node.ns.inside(lambda: key.write_text("0"))
    try:
        _, found = examined(vxland)
        assert subjects(found) == [("warning", "br_netfilter")]
        node.ns.run(*found[0]["remedy"].split())
        assert examined(vxland) == (0, [])
    finally:
        node.ns.inside(lambda: key.write_text("1"))
