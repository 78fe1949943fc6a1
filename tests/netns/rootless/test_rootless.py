"""vxland of users without root: a TAP in their user namespace, UDP sockets in the host's network namespace.

pod a - cni0 - flannel.1 (vxland) ===== flannel.1 (vxland) - cni0 - pod b      (lab.py has the picture)
                                  ===== flannel.1 (kernel vxlan) - cni0 - pod c
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.interop.confinement import PYTHON, held, open_place, readable_packages
from tests.netns.interop.daemon import plain
from tests.netns.interop.lab import FAMILIES, PORT, Node
from tests.netns.interop.ns import Ns
from tests.netns.interop.traffic import HEADERS, exchange_udp, no_checksum_errors, ping, send_tcp
from vxland.forwarding.io.udp import RECEIVE_BUFFER
from vxland.kernel.privilege import NET_ADMIN
from vxland.kernel.sockets import IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
from vxland.lab import shell

from .lab import SENDERS, Rootless, RootlessLab

pytestmark = pytest.mark.netns

ECT0, CE = 2, 3
INTERFACE, OMIT = 4, 5  # of IP_MTU_DISCOVER, linux/in.h
DATAGRAMS = 50


@pytest.fixture(scope="module")
def packages(_able: None) -> Iterator[Path]:
    """A site-packages folder with vxland that every user can read."""
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no {PYTHON}, which every user can run")
    with readable_packages() as folder:
        yield folder


@pytest.fixture(scope="module", params=[("compiled", 4), ("interpreted", 6)], ids=["compiled", "interpreted-v6"])
def lab(request: pytest.FixtureRequest, packages: Path) -> Iterator[RootlessLab]:
    """The nodes, running: compiled with two workers over IPv4, and interpreted over IPv6.

    User b's vxland has firewall rules, user a's wants programs.
    """
    gear, underlay = request.param
    with open_place() as place:
        made = RootlessLab(place, packages, gear, underlay)
        made.daemons[0].settings["datapath"]["fast_path"] = "auto"
        made.daemons[0].fast_path_comes = False
        made.daemons[1].settings["firewall"] = {"masquerade": True, "forward": True, "flavour": "nftables"}
        try:
            made.up()
            yield made
        finally:
            made.down()


def test_pods_reach_each_other(lab: RootlessLab) -> None:
    """Full packets, TCP with its content checked and UDP, of both families, to another user's pod and the kernel's."""
    pods: tuple[tuple[Node, Node], ...] = ((lab.a, lab.b), (lab.a, lab.c), (lab.c, lab.b))
    with no_checksum_errors(*(node.pod_ns for node in (lab.a, lab.b, lab.c))):
        for near, far in pods:
            for family in FAMILIES:
                ping(near.pod_ns, far.pod[family], near.mtu - HEADERS[family])
                send_tcp(near.pod_ns, far.pod_ns, far.pod[family], 2_000_000)
                send_tcp(far.pod_ns, near.pod_ns, near.pod[family], 2_000_000)
            exchange_udp(near.pod_ns, near.pod[4], far.pod_ns, far.pod[4], (1, 1000, 5000))
    assert "4 passed (2 by ping only), 0 failed" in lab.daemons[0].ask("test")


def test_no_offload_is_refused(lab: RootlessLab) -> None:
    """Inherited sockets segment and aggregate as own ones do, after traffic too."""
    for daemon in lab.daemons:
        (plane,) = daemon.status()["planes"]
        if daemon.gear == "compiled":
            assert plane["offloads_off"] == {}
            assert plane["offloads"]["udp_segment"] >= 64
        assert plane["workers"] == (2 if daemon.gear == "compiled" else 1)
        assert daemon.events("offload_off") == []


def test_status_shows_what_is_off(lab: RootlessLab) -> None:
    """With the reason: path MTUs and addresses, the fast path. Everything else is as with root."""
    status = lab.daemons[0].status()
    (plane,) = status["planes"]
    assert status["not_ready"] == ""
    assert plane["underlay"]["unwatched"].startswith("path MTUs and the address are not watched: the underlay is in")
    assert plane["fast_path"]["off"].startswith("the underlay is in another network namespace")
    assert (plane["mtu"], plane["underlay"]["mtu"]) == (lab.a.mtu, 1500)
    said = lab.daemons[0].ask("status")
    assert f"{lab.a.vtep}, UDP port 8472, inherited sockets, MTU 1500" in said
    assert plane["underlay"]["unwatched"] in said
    firewall = lab.daemons[1].status()["firewall"]
    assert (firewall["wanted"], firewall["error"]) == (True, "")
    assert "masquerade" in lab.b.ns.run("nft", "list", "ruleset")


def test_nothing_is_roots(lab: RootlessLab) -> None:
    """The daemon is the user's, its capabilities are those of its user namespace, and the host has only its sockets."""
    for daemon in lab.daemons:
        pid, node = daemon.pid, daemon.user
        assert set(held(pid)["Uid"].split()) == {str(node.uid)}
        assert int(held(pid)["CapEff"], 16) == 1 << NET_ADMIN | 1 << NET_ADMIN + 1  # and CAP_NET_RAW
        for kind in ("user", "net"):
            theirs, ours = (Path(f"/proc/{process}/ns/{kind}").stat() for process in (pid, "self"))
            assert not os.path.samestat(theirs, ours)
        assert node.host.links() == {"lo", "e0"}
        bound = [line.split()[3] for line in node.host.run("ss", "-Hlun").splitlines()]
        workers = 2 if daemon.gear == "compiled" else 1
        vtep = f"[{node.vtep}]" if ":" in node.vtep else node.vtep
        assert sorted(bound) == sorted(f"{vtep}:{port}" for port in (*[PORT] * workers, *SENDERS))
        assert f":{PORT} " not in node.ns.run("ss", "-Hlun")


def test_options_of_the_sockets(lab: RootlessLab) -> None:
    """They are set on the very sockets that were passed.

    Without CAP_NET_ADMIN on the host vxland could set a receive buffer of net.core.rmem_max, and shrank one that root
    had made larger. A forged ICMP error must narrow no path, since vxland cannot see that it did.
    """
    fds = [fd for name, fd in lab.daemons[0].keeper.kept if name == "underlay"]
    receiver, sender = (socket.socket(fileno=os.dup(fd)) for fd in (fds[0], fds[-1]))
    with receiver, sender:
        assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * RECEIVE_BUFFER
        if receiver.family == socket.AF_INET6:  # there only the sender fragments, and no forged MTU is below 1,280
            assert receiver.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) == INTERFACE
            assert sender.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) == 64
        else:
            assert receiver.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == INTERFACE
            assert sender.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == OMIT
            assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64


@pytest.mark.parametrize("place", [0, 1])
def test_another_user_cannot_join_the_port(lab: RootlessLab, place: int) -> None:
    """A socket unit sets SO_REUSEADDR, with which any user could take the datagrams; vxland clears it."""
    node = lab.daemons[place].user
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        family = socket.AF_INET6 if ":" in node.vtep else socket.AF_INET
        with node.host.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:  # noqa: B023  (called at once)
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError) as caught:  # noqa: PT011  (its errno is compared)
                sock.bind((node.vtep, PORT))
            assert caught.value.errno == errno.EADDRINUSE


def test_ecn_crosses_both_ways(lab: RootlessLab) -> None:
    """The TOS of inherited sockets is set for each datagram, and a mark of the underlay reaches the pod: RFC 6040."""
    with lab.a.pod_ns.socket(lab.a.pod[4]) as near, lab.b.pod_ns.socket(lab.b.pod[4]) as far:
        near.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ECT0)
        far.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        assert [sent_tos(near, far) for _ in range(2)] == [ECT0, ECT0]
        ip = "ip6" if ":" in lab.a.vtep else "ip"
        chain = f"add table {ip} t; add chain {ip} t o {{ type filter hook output priority 0; }}"
        lab.a.host.run("nft", f"{chain}; add rule {ip} t o udp dport {PORT} {ip} ecn ect0 {ip} ecn set ce")
        try:
            assert sent_tos(near, far) == CE
        finally:
            lab.a.host.run("nft", f"delete table {ip} t")


def sent_tos(near: socket.socket, far: socket.socket) -> int:
    """Send a datagram, and return the TOS with which it arrives."""
    near.sendto(b"x", far.getsockname())
    _, [(_, _, tos)], _, _ = far.recvmsg(10, socket.CMSG_SPACE(4))
    return int(struct.unpack("=B", tos[:1])[0])


def test_datagrams_wait_during_a_restart(lab: RootlessLab) -> None:
    """The manager keeps the sockets and the TAP queues: nothing is lost in either direction."""
    daemon = lab.daemons[0]
    before = daemon.keeper.names
    assert daemon.stop() == 0
    with lab.a.pod_ns.socket(lab.a.pod[4]) as near, lab.b.pod_ns.socket(lab.b.pod[4]) as far:
        content = [bytes([number]) * 500 for number in range(DATAGRAMS)]
        for source, target in ((near, far), (far, near)):
            for each in content:
                source.sendto(each, target.getsockname())
        daemon.start()
        for target in (near, far):
            assert [target.recv(2000) for _ in content] == content
    workers = 2 if daemon.gear == "compiled" else 1
    assert daemon.keeper.names == before
    assert [name for name in before if name != "underlay"] == [f"tap/flannel.1/{number}" for number in range(workers)]
    assert daemon.events("descriptor_dropped") == []


def refused(daemon: Rootless, passed: list[tuple[str, int]], **changes: object) -> list[str]:
    """Return what vxland prints when it refuses to start with these descriptors, without the program's name."""
    kept, daemon.keeper.kept = daemon.keeper.kept, passed
    settings = {section: dict(values) for section, values in daemon.settings.items()}
    try:
        for key, value in changes.items():
            section, name = key.split("__")
            daemon.settings.setdefault(section, {})[name] = value
        daemon.launch()
        assert daemon.wait() == 2, daemon.said()
        return [line.removeprefix("vxland: ") for line in plain(daemon.said()).splitlines()]
    finally:
        daemon.keeper.kept, daemon.settings = kept, settings


def subjects(daemon: Rootless) -> set[str]:
    """Return the subjects of what `vxland check --here` finds in the user's namespaces, where rp_filter is strict.

    It looks at the overlay device as everywhere, and not for an underlay that is elsewhere.
    """
    daemon.write()
    shell.set_sysctl(daemon.ns.name, "ipv4.conf.all.rp_filter", 1)
    try:
        done = shell.attempt(daemon.vxland("check", "--here", "--json", "-c", str(daemon.path)))
    finally:
        shell.set_sysctl(daemon.ns.name, "ipv4.conf.all.rp_filter", 0)
    found = json.loads(done.stdout)
    assert found["problems"] == [], done.stdout
    return {finding["subject"] for finding in found["findings"]}


@pytest.mark.parametrize("lab", [("compiled", 4)], ids=["compiled"], indirect=True)
def test_refused_sockets(lab: RootlessLab) -> None:
    """Each descriptor that does not fit is named in one go, with what it is, what is needed, and the remedy."""
    daemon = lab.daemons[1]
    daemon.stop()
    host: Ns = lab.b.host
    try:
        with (
            host.socket(lab.b.vtep, socket.SOCK_STREAM) as tcp,
            host.socket("127.0.0.1") as elsewhere,
            host.socket(lab.b.vtep) as unnamed,
        ):
            passed = [("underlay", tcp.fileno()), ("underlay", elsewhere.fileno()), ("vxland.socket", unnamed.fileno())]
            first, second, third, *missing = refused(daemon, passed)
        assert first.startswith(f"underlay.sockets: 'underlay (descriptor 3), a TCP socket on {lab.b.vtep} port")
        assert f"a UDP socket instead: ListenDatagram={lab.b.vtep}:8472" in first
        assert "(descriptor 4), a UDP socket on 127.0.0.1 port" in second
        assert f"bind it to {lab.b.vtep}" in second
        assert f"'vxland.socket (descriptor 5), a UDP socket on {lab.b.vtep} port" in third
        assert "FileDescriptorName=underlay" in third
        assert len(missing) == 2
        (workers,) = refused(daemon, daemon.keeper.kept, datapath__workers=7)
        assert workers.startswith("datapath.workers: 7: write auto or 2: ")
        (user,) = refused(daemon, daemon.keeper.kept, security__user="nobody")
        assert user.startswith("security.user: 'nobody': ")
        assert subjects(daemon) == {"rp_filter"}
    finally:
        daemon.start()
    assert shell.attempt(("ip", "-n", lab.b.host.name, "link", "show", "flannel.1")).returncode != 0
