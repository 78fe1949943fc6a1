"""The command line: exit codes, one line per problem, JSON for programs. The daemon itself runs in tests/netns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vxland.cli.main import main

GOOD = """
overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}
underlay: {interface: not-there0, address: 192.0.2.1}
registry: {peers: [{subnet: 10.244.1.0/24, vtep: 192.0.2.2, mac: "3a:87:cf:81:6a:ce"}]}
"""


def check(tmp_path: Path, text: str, *options: str) -> Result:
    """Run `vxland check` on a file with `text`."""
    path = tmp_path / "vxland.yaml"
    path.write_text(text)
    return CliRunner().invoke(main, ["check", "-c", str(path), *options])


def test_check_accepts(tmp_path: Path) -> None:
    """A valid file: exit 0. An underlay on another machine is a note, not a problem."""
    result = check(tmp_path, GOOD)
    assert result.exit_code == 0
    assert "good" in result.stdout
    assert "an MTU of 1500 is assumed" in result.stderr


def test_check_names_every_problem(tmp_path: Path) -> None:
    """Two mistakes: exit 2 and a line for each, with key, value and remedy."""
    result = check(tmp_path, GOOD.replace("subnet: 10.244.0.0/24", "subnet: 10.99.0.0/24, vnni: 2"))
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert any(line.startswith("overlay.vnni: 2: write vni") for line in lines)
    assert any(line.startswith("overlay.subnet: '10.99.0.0/24': use a part of 10.244.0.0/16") for line in lines)


def test_check_compares_the_mtu(tmp_path: Path) -> None:
    """An MTU larger than the underlay carries is a problem even if the underlay is only assumed."""
    result = check(tmp_path, GOOD.replace("subnet: 10.244.0.0/24", "subnet: 10.244.0.0/24, mtu: 1500"))
    assert result.exit_code == 2
    assert result.stdout.startswith("overlay.mtu: 1500: use 1450 or less")


def test_check_json(tmp_path: Path) -> None:
    """--json prints one object, whose problems have key, value and remedy."""
    result = check(tmp_path, GOOD.replace("10.244.1.0/24", "10.244.0.128/25"), "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert [problem["key"] for problem in answer["problems"]] == ["registry.peers[0].subnet"]
    assert set(answer["problems"][0]) == {"key", "value", "remedy"}


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["demo"], ["bench"]])
def test_help(command: list[str]) -> None:
    """Every command has a help text."""
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def test_run_refuses_a_bad_file(tmp_path: Path) -> None:
    """`vxland run` with a file it cannot use: exit 2, the reason on standard error, nothing started."""
    result = CliRunner().invoke(main, ["run", "-c", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_check_json_has_no_password_of_a_url(tmp_path: Path) -> None:
    """The lines for people had none, but those for programs did."""
    text = "registry: {kind: kube}\nkube: {api_url: 'https://u:hunter2@h?x'}\n"
    result = check(tmp_path, text, "--json")
    assert result.exit_code == 2
    assert "kube.api_url" in result.stdout
    assert "hunter2" not in result.stdout


def test_a_refused_start_is_json_where_the_log_is(tmp_path: Path) -> None:
    """A collector that reads JSON got plain lines for the very reason why a node did not start."""
    path = tmp_path / "vxland.yaml"
    path.write_text("overlay: {vni: -1, prot: 8472}\n")
    done = subprocess.run(
        [sys.executable, "-m", "vxland", "run", "-c", str(path), "--log-format", "json"],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 2
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} == {"fatal"}
    assert {event["key"] for event in events} >= {"overlay.vni", "overlay.prot"}
    assert all(event["remedy"] and event["level"] == "error" for event in events)


def test_root_without_permission_gets_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vxland demo` in a user namespace ended with a traceback."""

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(1, "Operation not permitted", "/proc/sys/net/ipv4/ip_forward")

    monkeypatch.setattr("vxland.lab.demo.runner.run", refused)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert "Operation not permitted: '/proc/sys/net/ipv4/ip_forward'; run it as root of the machine" in result.output


@pytest.mark.parametrize(
    ("command", "missing", "said"),
    [
        ("demo", "jinja2", "the demo needs the extra `lab` (missing: jinja2); pip install 'vxland[lab]'"),
        (
            "bench",
            "matplotlib",
            "the benchmark needs the extras `lab` and `plots` (missing: matplotlib); pip install 'vxland[lab,plots]'",
        ),
    ],
)
def test_the_lab_is_an_extra(monkeypatch: pytest.MonkeyPatch, command: str, missing: str, said: str) -> None:
    """Without its packages the commands say how to get them; a node needs none."""
    monkeypatch.setattr("vxland.lab.commands.find_spec", lambda name: None if name == missing else name)
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 1
    assert result.output == f"vxland: {said}\n"


@pytest.mark.parametrize("given", ["0", "x", "1,,2", "1000,99999999"])
def test_sizes_of_a_cluster_are_checked(given: str) -> None:
    """`vxland bench --leases` takes numbers that a node could follow: exit 2, the value and an example."""
    result = CliRunner().invoke(main, ["bench", f"--leases={given}"])
    assert result.exit_code == 2
    assert f"{given!r}: give numbers from 1 to 32000, such as 1000,5000" in result.stderr


@pytest.mark.parametrize(
    ("words", "sizes"), [(["--leases"], ()), (["--leases", "--quick"], ()), (["--leases", "1000,5000"], (1000, 5000))]
)
def test_sizes_of_a_cluster(monkeypatch: pytest.MonkeyPatch, words: list[str], sizes: tuple[int, ...]) -> None:
    """Without a number `--leases` measures the default sizes."""
    seen: list[tuple[int, ...]] = []

    def run(found: tuple[int, ...], *_: object, **__: object) -> int:
        seen.append(found)
        return 0

    monkeypatch.setattr("vxland.lab.bench.cluster.run", run)
    assert CliRunner().invoke(main, ["bench", *words]).exit_code == 0
    assert seen == [sizes]


def test_a_demo_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` downloaded 40 MB for the pictures of `vxland bench`."""
    monkeypatch.setattr("vxland.lab.commands.find_spec", lambda name: None if name == "matplotlib" else name)
    monkeypatch.setattr("vxland.lab.demo.runner.run", lambda *_, **__: 0)
    assert CliRunner().invoke(main, ["demo"]).exit_code == 0


def test_a_node_loads_little(tmp_path: Path) -> None:
    """Nothing of the lab, an extra that a node's installation lacks; of pyroute2 no messages."""
    path = tmp_path / "vxland.yaml"
    path.write_text(GOOD)
    program = (
        "import sys, vxland.node.daemon, vxland.cli.main\n"
        "sys.argv[1:] = ['check', '-c', sys.argv[1]]\n"
        "try: vxland.cli.main.main()\n"
        "finally: print(*sorted(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[3],
        text=True,
    )
    loaded = done.stdout.split()
    assert "vxland.cli.main" in loaded
    assert [name for name in loaded if name.startswith("vxland.lab") or name in {"jinja2", "matplotlib"}] == []
    assert not [name for name in loaded if name.startswith("pyroute2.netlink")]
    assert {"pyroute2.iproute", "pyroute2.ndb"} & set(loaded) == set()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_bug_ends_in_the_form_of_the_log(tmp_path: Path, form: str) -> None:
    """A collector that reads JSON got the lines of a traceback; the console still has them."""
    path = tmp_path / "vxland.yaml"
    path.write_text(GOOD)
    program = (
        "import sys, vxland.node.confinement, vxland.cli.main\n"
        "def broken(*_): raise ZeroDivisionError('by nothing')\n"
        "vxland.node.confinement.confine = broken\n"
        "vxland.cli.main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "-c", str(path), "--log-format", form],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
        text=True,
    )
    assert done.returncode == 1
    if form == "console":
        assert done.stderr.startswith("Traceback (most recent call last):\n")
        assert done.stderr.endswith("\nZeroDivisionError: by nothing\n")
        return
    (line,) = done.stderr.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["error"]) == ("fatal", "error", "ZeroDivisionError: by nothing")
    assert event["exception"].startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("--etcd-p", ["--etcd-prefix", "--etcd-password"]), ("-kube-a", ["-kube-api-url", "-kube-annotation-prefix"])],
)
def test_flags_of_flanneld_are_completed(typed: str, expected: list[str]) -> None:
    """None was: its command reads its arguments itself."""
    words = {"_VXLAND_COMPLETE": "bash_complete", "COMP_WORDS": f"vxland flanneld {typed}", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, prog_name="vxland", env=words)
    assert [line.partition(",")[2] for line in result.stdout.splitlines()] == expected
