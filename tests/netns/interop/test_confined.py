"""`security.user` and `security.seccomp`: root starts vxland, which then keeps only the rights that it needs.

pod a - cni0 - flannel.1 (vxland, as nobody) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (lab.py has the addresses)
"""

from __future__ import annotations

import copy
import os
import pwd
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import ask, ask_json
from .confinement import USER, Confined, confined, confined_lab, held, python
from .conftest import running
from .daemon import plain
from .lab import Lab
from .ns import wait_until
from .traffic import ping, send_tcp

pytestmark = pytest.mark.netns

ONLY_NET_ADMIN = f"{1 << 12:016x}"
SECCOMP_FILTER = "2"


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, place: Path, packages: Path, _able: None) -> Iterator[Lab]:
    """Node a's vxland changes to nobody behind a filter, with firewall rules; node b uses the kernel's device."""
    yield from running(confined_lab(request.param, place, packages))


def test_every_thread_holds_one_capability(lab: Lab) -> None:
    """Another user, no group of root, CAP_NET_ADMIN in every set, no new privileges, a filter."""
    pid = lab.vxland.pid
    threads = sorted(Path(f"/proc/{pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        fields = held(f"{pid}/task/{thread.name}")
        assert set(fields["Uid"].split()) == {str(USER.pw_uid)}
        assert set(fields["Gid"].split()) == {str(USER.pw_gid)}
        assert set(fields["Groups"].split()) <= {str(group) for group in os.getgrouplist(USER.pw_name, USER.pw_gid)}
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert fields[name] == ONLY_NET_ADMIN, name
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", SECCOMP_FILTER)
    (event,) = lab.vxland.events("confined")
    assert (event["user"], event["capabilities"], event["seccomp"]) == (USER.pw_name, 1, True)


def test_status_shows_the_confinement(lab: Lab) -> None:
    """`vxlandctl status`, as text and as JSON. The responder needs no capability."""
    assert ask_json(lab.vxland, "status")["planes"][0]["responder"]["off"] == ""
    assert ask_json(lab.vxland, "status")["process"] == {
        "user": USER.pw_name,
        "capabilities": ["CAP_NET_ADMIN"],
        "no_new_privs": True,
        "seccomp": True,
    }
    assert f"user {USER.pw_name}, CAP_NET_ADMIN, no new privileges, system calls filtered" in ask(lab.vxland, "status")


def test_folders_are_its_own(lab: Lab) -> None:
    """Root made them and changed their owner, so that socket and subnet.env can be replaced; other users may enter."""
    for path in (Path(lab.vxland.settings["control"]["socket"]), lab.vxland.subnet_file):
        assert path.stat().st_uid == USER.pw_uid
        found = path.parent.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (USER.pw_uid, 0o755)


def test_it_does_its_work(lab: Lab) -> None:
    """Frames cross, removed routes and neighbours are restored, and a reload changes peers."""
    send_tcp(lab.a.pod_ns, lab.b.pod_ns, lab.b.pod[4], 1 << 20)
    lab.a.ns.ip("neigh flush dev flannel.1 nud permanent")
    lab.a.ns.ip(f"route del {lab.b.subnet[4]}")
    lab.vxland.wait_for_peers()
    known = copy.deepcopy(lab.vxland.peers)
    lab.vxland.peers.append({"subnet": ["10.244.2.0/24"], "vtep": "192.168.111.130", "mac": "02:00:00:00:00:0c"})
    lab.vxland.reload()
    lab.vxland.settings["registry"]["peers"] = known
    lab.vxland.reload()
    ping(lab.a.pod_ns, lab.b.pod[4])


def rules_of(lab: Lab) -> str:
    """Return all of nft's rules in node a."""
    return lab.a.ns.run("nft", "list", "ruleset")


def test_its_rules_are_restored(lab: Lab) -> None:
    """nft, started by the daemon, may change the firewall and is as confined as the daemon."""
    before = wait_until(lambda: rules_of(lab), "rules of the firewall", lab.vxland.said)
    assert "masquerade" in before
    lab.a.ns.run("nft", "flush", "ruleset")
    wait_until(lambda: rules_of(lab) == before, "the same rules again", lab.vxland.said)


def test_iptables_works_too(lab: Lab) -> None:
    """The nf_tables backend of iptables needs only CAP_NET_ADMIN."""
    lab.vxland.stop()
    lab.vxland.settings["firewall"]["flavour"] = "iptables"
    try:
        lab.vxland.start()
        assert "FLANNEL-POSTRTG" in lab.a.ns.run("iptables-save")
        assert lab.vxland.events("firewall_failed") == []
        ping(lab.a.pod_ns, lab.b.pod[4])
    finally:
        lab.vxland.stop()
        lab.vxland.settings["firewall"]["flavour"] = "nftables"
        lab.vxland.start()


def test_after_a_crash(lab: Lab) -> None:
    """After a kill, the next daemon, again started by root, takes over socket, device and folders."""
    mac = lab.a.mac()
    lab.vxland.stop(signal.SIGKILL)
    lab.vxland.start()
    assert lab.a.mac() == mac
    ping(lab.a.pod_ns, lab.b.pod[4])
    assert lab.vxland.events("control_off", "control_group_refused") == []


def test_a_deleted_device_is_made_again(lab: Lab) -> None:
    """CAP_NET_ADMIN and an open /dev/net/tun are sufficient, also behind the filter."""
    pid = lab.vxland.pid
    lab.a.ns.ip("link delete flannel.1")
    lab.vxland.wait_for("device_recreated")
    ping(lab.b.pod_ns, lab.a.pod[4])
    assert lab.vxland.pid == pid


def test_another_user_is_refused(lab: Lab, packages: Path) -> None:
    """The socket's mode keeps others out; with an open mode, the peer credentials from the kernel do."""
    path = Path(lab.vxland.settings["control"]["socket"])
    other = pwd.getpwnam("daemon")
    command = (*python(packages), "-m", "vxland.ctl", "--socket", str(path), "status")

    def answer_to(uid: int) -> subprocess.CompletedProcess[str]:
        ids = (f"--reuid={uid}", f"--regid={other.pw_gid}", "--clear-groups", "--inh-caps=-all")
        return subprocess.run(("setpriv", *ids, *command), check=False, capture_output=True, text=True)

    refused = answer_to(other.pw_uid)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    assert "Permission denied: be root, or join the group vxland" in refused.stderr
    path.chmod(0o666)
    refused = answer_to(other.pw_uid)
    assert (refused.returncode, refused.stdout) == (1, ""), refused.stderr
    assert f"uid {other.pw_uid} may not: be root, or join the group vxland" in refused.stderr
    assert lab.vxland.events("control_refused")[-1]["uid"] == other.pw_uid
    assert answer_to(USER.pw_uid).returncode == 0


class Refused:
    """The error message of a vxland of node a that does not start."""

    def __init__(self, daemon: Confined) -> None:
        self.daemon = daemon

    def __call__(self, *wrapper: str, **security: str) -> str:
        """Return its one line after `vxland: `, with exit code 2; `wrapper` precedes Python."""
        self.daemon.settings["security"] |= security
        self.daemon.write()
        command = self.daemon.command()
        at = command.index("env")
        done = subprocess.run((*command[:at], *wrapper, *command[at:]), check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        (line,) = plain(done.stderr).splitlines()
        return line.removeprefix("vxland: ")


@pytest.fixture
def refused(place: Path, packages: Path, _able: None) -> Iterator[Refused]:
    """Node a without a running daemon."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Lab(folder, "compiled")
        try:
            made.build()
            daemon = confined(made, folder, place, packages)
            daemon.settings["security"]["seccomp"] = "off"
            yield Refused(daemon)
        finally:
            made.down()


def test_refusals(refused: Refused, place: Path) -> None:
    """Each names the key, the user and the remedy; a folder with other content is not changed."""
    daemon = refused.daemon
    me = f"security.user: {USER.pw_name!r}: "
    assert refused(user="no-such-user").startswith("security.user: 'no-such-user': create this user (useradd ")
    other = pwd.getpwnam("daemon")
    drop = ("setpriv", f"--reuid={other.pw_uid}", "--clear-groups", "--inh-caps=-all")
    line = refused(*drop, user=USER.pw_name)
    assert line.startswith(f"{me}start vxland as root, not as daemon, or leave it out")

    socket_path = daemon.settings["control"]["socket"]
    (daemon.directory / "other").touch()
    daemon.settings["control"]["socket"] = str(daemon.directory / "control.sock")
    assert refused().startswith(
        f"{me}chown {USER.pw_name} {daemon.directory}, or name a file in a folder of its own as "
    )
    assert daemon.directory.stat().st_uid == 0
    daemon.settings["control"]["socket"] = socket_path

    daemon.tun = place / "tun-of-root"
    os.mknod(daemon.tun, stat.S_IFCHR | 0o600, os.makedev(10, 200))
    assert refused().startswith(
        f"{me}let it open /dev/net/tun, for instance with chmod 666 /dev/net/tun or a udev rule"
    )

    lacking = ("setpriv", "--bounding-set=-all,+net_admin,+chown,+dac_override", "--inh-caps=-all")
    daemon.tun = place / "tun"
    assert refused(*lacking).startswith(f"{me}leave it out, or grant NET_ADMIN, SETUID, SETGID and SETPCAP")


def test_pings_need_the_group(lab: Lab) -> None:
    """With only CAP_NET_ADMIN, peers are pinged if ping_group_range has the user's group; else the log says why."""
    why = "net.ipv4.ping_group_range is 1 0, which does not let this process ping, and it has no CAP_NET_RAW"

    def restarted(interval_s: int, groups: str) -> None:
        lab.vxland.stop()
        lab.vxland.settings["probe"]["interval_s"] = interval_s
        lab.a.ns.run("sysctl", "-qw", f"net.ipv4.ping_group_range={groups}")
        lab.vxland.start()

    def answers() -> bool:
        return all((peer["probe"] or {}).get("full_mtu") == "passes" for peer in ask_json(lab.vxland, "peers"))

    try:
        restarted(1, "1 0")
        event = lab.vxland.wait_for("probes_off")
        assert event["cause"] == why
        assert ask_json(lab.vxland, "status")["planes"][0]["probes"]["off"] == f"{why}; {event['remedy']}"
        ping(lab.a.pod_ns, lab.b.pod[4])
        restarted(1, f"{USER.pw_gid} {USER.pw_gid}")
        wait_until(answers, "both peers answer", lab.vxland.said)
        assert lab.vxland.events("probes_off") == []
    finally:
        restarted(0, "1 0")


def test_a_file_that_the_user_cannot_read(lab: Lab) -> None:
    """The daemon starts, because root could read it, and reports at once that reloads will fail, with the remedy."""
    lab.vxland.stop()
    lab.vxland.path.chmod(0o600)
    try:
        lab.vxland.start()
        (event,) = lab.vxland.events("reload_impossible")
        assert event["remedy"] == f"chgrp {USER.pw_name} {lab.vxland.path} && chmod 640 {lab.vxland.path}"
        (refused,) = lab.vxland.hang_up("reload_refused")
        assert refused["value"] == "Permission denied"
    finally:
        lab.vxland.stop()
        lab.vxland.path.chmod(0o644)
        lab.vxland.start()
