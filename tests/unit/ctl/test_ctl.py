"""vxlandctl: exit codes, error lines without a daemon, and the output of answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from vxland.cli.main import main as vxland
from vxland.ctl import client, show
from vxland.ctl.cli import main

ROOT = Path(__file__).parents[3]
ASKING = ["status", "peers", "stats", "plan", "reload", "top", "trace 10.0.0.1 10.0.0.2"]
"""Commands that need a daemon."""


def vxlandctl(path: Path, *words: str) -> Result:
    """Run a command against the socket at `path`."""
    return CliRunner().invoke(main, ["--socket", str(path), *words])


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Run a daemon that answers one client after another with these bytes; yield the requests."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    asked.append(sock.recv(1 << 16))
                    sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


@pytest.mark.parametrize("command", ASKING)
def test_no_daemon(tmp_path: Path, command: str) -> None:
    """Exit 1, with one line that names the socket and the remedy."""
    path = tmp_path / "control.sock"
    result = vxlandctl(path, *command.split())
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"vxlandctl: {path}: No such file or directory: start vxland, or name its socket: --socket PATH\n"
    )


def test_a_dead_daemon(tmp_path: Path) -> None:
    """The socket file exists, but no process listens."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    result = vxlandctl(path, "status")
    assert result.exit_code == 1
    assert result.stderr == f"vxlandctl: {path}: Connection refused: that vxland is dead: start it again\n"


@pytest.mark.parametrize("answer", [b"", b'{"result": ', b"nonsense\n", b"{}\n", b"[]\n"])
def test_a_daemon_that_closes_the_connection(tmp_path: Path, answer: bytes) -> None:
    """An incomplete answer is an error."""
    path = tmp_path / "control.sock"
    for command in ("stats", "peers"):
        path.unlink(missing_ok=True)
        with answering(path, answer):
            result = vxlandctl(path, command)
        assert result.exit_code == 1
        assert "the daemon went away" in result.stderr


@pytest.mark.parametrize(("usage", "code"), [("true", 2), ("false", 1)])
def test_a_refusal(tmp_path: Path, usage: str, code: int) -> None:
    """The daemon's refusal is printed; the exit code separates usage errors and failures."""
    path = tmp_path / "control.sock"
    with answering(path, b'{"error": "no such thing", "usage": %b}\n' % usage.encode()):
        result = vxlandctl(path, "plan")
    assert (result.exit_code, result.stderr) == (code, "vxlandctl: no such thing\n")


@pytest.mark.parametrize(("reason", "code", "text"), [("", 0, "ready"), ("no device", 1, "not ready: no device")])
def test_readiness(tmp_path: Path, reason: str, code: int, text: str) -> None:
    """`status --ready` prints one line and sets the exit code, for the health check of a container."""
    path = tmp_path / "control.sock"
    with answering(path, json.dumps({"result": {"not_ready": reason}}).encode() + b"\n"):
        result = vxlandctl(path, "status", "--ready")
    assert (result.exit_code, result.stdout) == (code, f"{text}\n")


def test_reload_prints_the_problems(tmp_path: Path) -> None:
    """A refused file: exit 2, a line for each problem as `vxland check` prints it; JSON for programs."""
    path, problem = tmp_path / "control.sock", {"key": "overlay.vni", "value": "2", "remedy": "restart"}
    answer = json.dumps({"result": {"problems": [problem]}}).encode() + b"\n"
    with answering(path, answer, answer):
        text, programs = vxlandctl(path, "reload"), vxlandctl(path, "reload", "--json")
    assert (text.exit_code, text.stdout) == (2, "overlay.vni: '2': restart\n")
    assert (programs.exit_code, json.loads(programs.stdout)) == (2, {"problems": [problem]})


@pytest.mark.parametrize(
    ("words", "ports"), [([], (0, 0)), (["tcp", "80"], (0, 80)), (["udp", "4000", "53"], (4000, 53))]
)
def test_trace_ports(tmp_path: Path, words: list[str], ports: tuple[int, int]) -> None:
    """One number is the destination port, two are source and destination port."""
    path = tmp_path / "control.sock"
    answer = {"steps": [["node", "here"]], "outer": {}, "remedy": "", "verdict": "local"}
    older = {"error": "command: 'names': use one of trace", "usage": True}
    with answering(path, *(json.dumps(each).encode() + b"\n" for each in ({"result": answer}, older))) as asked:
        result = vxlandctl(path, "trace", "10.0.0.1", "10.0.0.2", *words)
    args = json.loads(asked[0])["args"]
    assert (args["sport"], args["dport"]) == ports
    assert (result.exit_code, result.stdout) == (0, "node     here\nverdict  local\n")


@pytest.mark.parametrize(
    "words", [["trace"], ["trace", "a"], ["trace", "a", "b", "sctp"], ["trace", "a", "b", "tcp", "70000"],
              ["trace", "a", "b", "udp", "1", "2", "3"], ["stats", "--watch", "0"], ["completion", "sh"], ["nope"]],
    ids=" ".join,
)  # fmt: skip
def test_usage_errors(tmp_path: Path, words: list[str]) -> None:
    """Exit 2 without a request to the daemon."""
    result = vxlandctl(tmp_path / "none", *words)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("command", ["", *(words.split()[0] for words in ASKING), "completion"])
def test_help(command: str) -> None:
    """Every command has a help text, and all that print an answer have --json and --socket."""
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert ("--json" in result.stdout) is (command != "completion")
    assert ("--socket" in result.stdout) is (command != "completion")


@pytest.mark.parametrize(
    ("command", "program", "module", "start", "completed"),
    [
        (main, "vxlandctl", "vxland.ctl.cli", "st", {"status", "stats"}),
        (vxland, "vxland", "vxland.cli.main", "c", {"check", "completion"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(
    command: click.Command, program: str, module: str, start: str, completed: set[str], shell: str
) -> None:
    """The completion script calls the program, and the program completes its commands."""
    script = CliRunner().invoke(command, ["completion", shell])
    assert script.exit_code == 0
    variable = f"_{program.upper()}_COMPLETE"
    assert variable in script.stdout
    code = f"from {module} import main; main(prog_name='{program}')"
    asking = {variable: "bash_complete", "COMP_WORDS": f"{program} {start}", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asking, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == completed


def test_starts_at_once() -> None:
    """A client loads no module that only the daemon needs, and rich only for `top`."""
    heavy = "aiohttp asyncio Cython cython prometheus_client pydantic pyroute2 rich structlog uvloop yaml"
    program = f"import sys, vxland.ctl.cli; print(*sorted(set({heavy.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (11_520, "3 h 12 min"), (90_000, "1 d 1 h")]
)
def test_span(seconds: float, text: str) -> None:
    """A time has its largest unit and the next."""
    assert show.span(seconds) == text


def test_peers_with_traffic() -> None:
    """The columns of traffic appear if the daemon counts it."""
    peer = {"subnet": "10.0.1.0/24", "vtep": "192.0.2.2", "mac": "3a:87:cf:81:6a:ce", "device": "flannel.1", "age_s": 5}
    assert show.peers([]) == "no peers"
    assert "ENCAP FRAMES" not in show.peers([peer])
    traffic = {"encap": {"frames": 11, "bytes": 22}, "decap": {"frames": 33, "bytes": 44}}
    head, row = show.peers([peer | {"traffic": traffic}]).splitlines()
    assert head.split()[-8:] == ["ENCAP", "FRAMES", "ENCAP", "BYTES", "DECAP", "FRAMES", "DECAP", "BYTES"]
    assert row.split()[-4:] == ["11", "22", "33", "44"]


def test_peers_with_pings() -> None:
    """Each peer has its results, `-` for unknown ones; problems with peers follow the table."""
    cause = {"word": "mtu_hole", "happened": "too long", "remedy": "raise it"}
    peer = {"subnet": "10.0.1.0/24", "vtep": "192.0.2.2", "mac": "3a:87:cf:81:6a:ce", "device": "flannel.1", "age_s": 5}
    probe = {"state": "reachable", "rtt_smoothed_s": 0.00123, "loss": 0.05, "full_mtu": "hole", "mtu": 1450}
    unknown = {"state": "unknown", "rtt_smoothed_s": None, "loss": None, "full_mtu": "unknown", "mtu": 1450}
    answer = [peer | {"probe": probe | {"cause": cause}}, peer | {"probe": unknown | {"cause": None}}]
    head, ill, well, *below = show.peers([*answer, peer | {"probe": None}]).splitlines()
    assert head.split()[-4:] == ["STATE", "RTT", "LOSS", "MTU"]
    assert ill.split()[-5:] == ["reachable", "1.23", "ms", "5%", "<1450"]
    assert well.split()[-4:] == ["unknown", "-", "-", "-"]
    assert below == [
        below[0],
        "",
        "10.0.1.0/24 at 192.0.2.2: mtu_hole: too long",
        "  look at  raise it",
    ]
    assert below[0].split()[-4:] == ["-"] * 4


def test_an_instance_by_name() -> None:
    """--instance NAME, before or after the command, means the socket of vxland@NAME.service."""
    for words in (["--instance", "none-such", "status"], ["status", "--instance", "none-such"]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1
        assert result.stderr.startswith("vxlandctl: /run/vxland-none-such/control.sock: No such file")
    for words, why in (
        (["--instance", "a/b", "status"], "write the part after the @"),
        (["status", "--instance", "a", "--socket", "/x"], "not both"),
    ):
        result = CliRunner().invoke(main, words)
        assert (result.exit_code, why in result.stderr) == (2, True)


def test_a_daemon_that_hangs_is_named_in_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped daemon kept every command silent for a minute, and its process had to be looked up."""
    monkeypatch.setattr(client, "ANSWER_S", client.ANSWER_S / 50)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for command in ("status", "peers", "capture", "plan"):
            result = vxlandctl(path, command)
            assert result.exit_code == 1
            assert f"{path}: the daemon, pid {os.getpid()}, does not answer" in result.stderr
    assert client.ANSWER_S * 50 == 5
    assert client.RELOAD_S == 60


def test_q_leaves_top(tmp_path: Path) -> None:
    """The key q did nothing."""
    path = tmp_path / "control.sock"
    here, there = os.openpty()
    stats = {way: {"frames": 0, "bytes": 0, "drops": {}} for way in ("encap", "decap")} | {"at_s": 0}
    with answering(path, json.dumps({"result": stats}).encode() + b"\n"):
        words = [sys.executable, "-m", "vxland.ctl", "--socket", str(path), "top", "--interval", "1000"]
        with subprocess.Popen(words, stdin=there, stdout=there, stderr=there, cwd=ROOT) as shown:
            os.close(there)
            os.write(here, b"xq")
            seen = b""
            with suppress(OSError):  # the end of a terminal whose other side is closed
                while some := os.read(here, 4096):
                    seen += some
            assert shown.wait(timeout=60) == 0
    assert b"Traceback" not in seen
    os.close(here)
