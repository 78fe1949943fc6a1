"""`vxlandctl support`: what it takes, its bounds, the file that it writes, and that nothing in it is secret."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vxland.ctl import client, support
from vxland.ctl.cli import main
from vxland.ctl.client import DaemonClient
from vxland.ctl.support import Support, run
from vxland.ctl.support_parts import device_programs, nft_tables, relevant_rules

CONFIG = """
overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}
underlay: {interface: not-there0, address: 192.0.2.1}
"""


def vxlandctl(directory: Path, *words: str) -> Result:
    """Run `vxlandctl support` in this directory, which may have a daemon's socket and a file."""
    config = directory / "vxland.yaml"
    options = ("--socket", str(directory / "control.sock"), "support", "--config", str(config))
    return CliRunner().invoke(main, [*options, *words])


def opened(archive: bytes) -> dict[str, str]:
    """Return the content of each file of an archive, by its name in the archive's folder."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        assert all(each.mode == 0o600 and each.isfile() for each in members)
        assert len({each.name.partition("/")[0] for each in members}) == 1
        found = {}
        for each in members:
            file = tar.extractfile(each)
            assert file is not None
            found[each.name.partition("/")[2]] = file.read().decode()
        return found


@contextmanager
def daemon(directory: Path, answers: dict[str, Any]) -> Iterator[None]:
    """Serve the commands of `answers`: a value, or the bytes to send; other commands are refused."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control.sock"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    command = json.loads(sock.makefile().readline() or "{}").get("command", "")
                    answer = answers.get(command)
                    if isinstance(answer, bytes):
                        sock.sendall(answer)
                        sock.recv(1)  # until the client leaves
                    elif answer is None:
                        sock.sendall(b'{"error": "no such command", "usage": true}\n')
                    else:
                        sock.sendall(json.dumps({"result": answer}).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_without_a_daemon(tmp_path: Path) -> None:
    """It takes what can be had, says why the rest is missing, and succeeds."""
    (tmp_path / "vxland.yaml").write_text(CONFIG)
    output = tmp_path / "x.tar.gz"
    done = vxlandctl(tmp_path, "-o", str(output))
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".vxland*")) == []
    found = opened(output.read_bytes())
    manifest = json.loads(found["manifest.json"])
    assert set(manifest["taken"]) == set(found) - {"manifest.json"}
    assert "start vxland, or name its socket" in manifest["missing"]["status.json"]
    assert "net/ipv4/ip_forward = " in found["kernel/sysctls.txt"]
    assert "lo:" in found["kernel/net-dev.txt"]
    assert "class/net/lo/mtu = " in found["kernel/devices.txt"]
    assert json.loads(found["check.json"])["settings"]["overlay"]["network"] == "10.244.0.0/16"
    assert "python" in json.loads(found["versions.json"])
    for name in manifest["taken"]:
        assert name in done.output
    (line,) = [line for line in done.output.splitlines() if "status.json" in line]
    assert line.startswith("not taken: status.json, stats.json, drops.json, plan.json, peers.json")


def test_its_summary_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has node and time; a file that is missing is no failure."""
    monkeypatch.chdir(tmp_path)
    done = vxlandctl(tmp_path, "--json")
    answer = json.loads(done.stdout)
    assert answer["archive"].startswith("vxland-support-")
    assert (tmp_path / answer["archive"]).stat().st_size == answer["bytes"]
    assert answer["missing"]["check.json"] == f"there is no {tmp_path / 'vxland.yaml'}: name the file with --config"


def test_standard_output(tmp_path: Path) -> None:
    """The archive alone goes there, and the summary to standard error."""
    done = vxlandctl(tmp_path, "-o", "-")
    assert "manifest.json" in opened(done.stdout_bytes)
    assert "not taken: " in done.stderr


def test_places_that_are_no_files(tmp_path: Path) -> None:
    """Root must not replace a device, nor write through another user's link."""
    pipe, link, victim = tmp_path / "pipe", tmp_path / "link.tar.gz", tmp_path / "victim"
    os.mkfifo(pipe)
    done = vxlandctl(tmp_path, "-o", str(pipe))
    assert (done.exit_code, done.stderr) == (1, f"vxlandctl: {pipe} is no file: choose another one with -o\n")
    assert pipe.is_fifo()
    victim.write_text("unchanged")
    link.symlink_to(victim)
    assert vxlandctl(tmp_path, "-o", str(link)).exit_code == 0
    assert victim.read_text() == "unchanged"
    assert not link.is_symlink()
    done = vxlandctl(tmp_path, "-o", str(tmp_path / "none" / "x"))
    assert (done.exit_code, "none/x cannot be written: No such file" in done.stderr) == (1, True)


def test_nothing_is_left_by_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it collects leaves no part of an archive; a place that cannot be written is found before that."""
    asked = []

    def interrupted(_: Support) -> None:
        asked.append(list(tmp_path.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(Support, "collect", interrupted)
    assert vxlandctl(tmp_path, "-o", str(tmp_path / "x")).exit_code == 1
    assert len(asked[0]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written" in vxlandctl(tmp_path, "-o", str(tmp_path / "none" / "x")).stderr
    assert len(asked) == 1


def test_nothing_is_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the configuration, its comments, the environment, answers, events, and errors are in no archive."""
    key = "-----BEGIN PRIVATE KEY-----\nS3CRETkey\n-----END PRIVATE KEY-----\n"
    for name, content in (
        ("pw", "S3CRETfile"),
        ("key.pem", key),
        ("kubeconfig", "users: [{user: {token: S3CRETkube}}]"),
    ):
        (tmp_path / name).write_text(content)
    (tmp_path / "vxland.yaml").write_text(
        f"# the old password was S3CRETcomment\nregistry: {{kind: etcd}}\n"
        f"etcd: {{endpoints: ['https://root:S3CRETurl@192.0.2.9:1'], username: root, password: S3CRETyaml,"
        f" passwrod: S3CRETmisspelt, cert_file: {tmp_path}/key.pem, key_file: {tmp_path}/key.pem}}\n"
        f"kube: {{kubeconfig: {tmp_path}/kubeconfig, api_url: 'https://u:S3CRETapi@192.0.2.9'}}\n"
    )
    for name in ("FLANNELD_ETCD_PASSWORD", "KUBE_TOKEN"):
        monkeypatch.setenv(name, "S3CRETenv")
    event = {
        "event": "registry_trouble",
        "reason": "https://root:S3CRETevent@etcd: Authorization: Bearer S3CRETbearer",
        "exception": f"ValueError: {key!r}\npassword: S3CRETtrace",
    }
    answers = {
        "status": {"planes": [], "not_ready": "login as root, password=S3CRETstatus, failed"},
        "stats": {"x": "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrOHMifQ.S3CRETjwt"},
        "plan": b'{"error": "POST https://u:S3CRETerror@etcd: token: S3CRETrefused", "usage": false}\n',
        "support": {
            "settings": {"etcd": {"password": "S3CRETsettings", "endpoints": "http://a:S3CRETendpoint@b"}},
            "versions": {},
            "features": {},
            "host": ["https://u:S3CREThost@etcd"],
            "events": [event],
        },
    }
    with daemon(tmp_path, answers):
        done = vxlandctl(tmp_path, "-o", str(tmp_path / "x"), "--json")
    found = opened((tmp_path / "x").read_bytes())
    assert {"check.json", "events.txt", "settings.json", "status.json", "stats.json"} <= set(found), found[
        "manifest.json"
    ]
    assert "registry_trouble" in found["events.txt"]
    assert "POST https://(removed)@etcd" in json.loads(found["manifest.json"])["missing"]["plan.json"]
    assert json.loads(found["check.json"])["ok"] is False
    leaks = [name for name, text in {**found, "summary": done.output}.items() if "S3CRET" in text]
    assert leaks == []


def test_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence in the middle of a stream ends that part, as one that never answers does."""
    monkeypatch.setattr(client, "ANSWER_S", client.ANSWER_S / 50)
    with daemon(tmp_path, {"peers": b'{"item": []}\n', "status": b"", "stats": {"at_s": 1}}):
        done = vxlandctl(tmp_path, "--json", "-o", str(tmp_path / "x"))
    answer = json.loads(done.stdout)
    assert "does not answer" in answer["missing"]["peers.json"]
    assert "does not answer" in answer["missing"]["status.json"]
    assert "stats.json" in answer["taken"]


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is too long is cut, what exceeds the whole is left out, and so is what would take too long."""
    monkeypatch.setattr(support, "MAX_PART", 1000)
    monkeypatch.setattr(support, "MAX_TOTAL", 2500)
    made = Support(DaemonClient(tmp_path / "none"), tmp_path / "none")
    for name in ("a", "b", "c"):
        made._take(name, lambda: "x" * 5000)
    assert {name: len(content) for name, content in made.taken.items()} == {"a": 1000, "b": 1000}
    assert made.taken["a"].endswith(b"(cut: the rest is too long)\n")
    assert made.missing["c"].startswith("left out: the others have")
    made._ends = 0.0
    made.collect()
    assert set(made.taken) == {"a", "b"}
    assert made.missing["kernel/links.txt"] == "left out: the others took 60 s"


def test_programs_that_misbehave(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that prints without end is cut, one that hangs is ended, and one that fails says why."""
    monkeypatch.setattr(support, "MAX_PART", 1000)
    assert len(run(("yes",), 60)) == 1001
    with pytest.raises(OSError, match="`sleep 1000` did not end within 0 s"):
        run(("sleep", "1000"), 0.1)
    with pytest.raises(OSError, match="no-such-program is not installed"):
        run(("no-such-program",), 1)
    script = "import sys; sys.exit('the reason')"
    with pytest.raises(OSError, match="failed: the reason"):
        run((sys.executable, "-c", script), 60)


def test_rules_that_concern_the_overlay() -> None:
    """Chains of Services are left out, policies and rules about the overlay stay."""
    saved = (
        "# Generated\n*filter\n:INPUT ACCEPT [5:500]\n:FORWARD DROP [0:0]\n:KUBE-SVC-X - [0:0]\n:FLANNEL-FWD - [0:0]\n"
        "-A FORWARD -j FLANNEL-FWD\n-A KUBE-SVC-X -j KUBE-SEP-Y\n-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT\n"
        "-A OTHER -p udp -m udp --dport 8472 -j DROP\nCOMMIT\n"
    )
    kept = relevant_rules(saved).splitlines()
    assert [line for line in saved.splitlines() if line not in kept] == [
        "# Generated",
        ":KUBE-SVC-X - [0:0]",
        "-A KUBE-SVC-X -j KUBE-SEP-Y",
    ]
    assert relevant_rules("-A FORWARD -j X\n" * 6000).endswith("(1000 more lines)\n")


def test_tables_and_devices() -> None:
    """Only our own tables; a device's name of any bytes makes a plain file name."""
    assert nft_tables("table ip flannel-ipv4\ntable inet filter\ntable ip vxland-x\nnonsense\n") == [
        ("ip", "flannel-ipv4"),
        ("ip", "vxland-x"),
    ]
    names = [part.name for part in device_programs(["a/../b", "a/../b"])]
    assert len(names) == len(set(names)) == 5
    assert all("/" not in name.removeprefix("kernel/") for name in names)
