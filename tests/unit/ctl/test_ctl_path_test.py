"""`vxlandctl test`: matrix, JSON and exit codes of the daemon's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .test_ctl import answering, vxlandctl


def peer(number: int, note: str = "", **outcomes: str) -> dict[str, Any]:
    """Return the results of a peer; checks that are not named have passed."""
    checks = {
        name: {"outcome": outcomes.get(name, "passed"), "happened": "it broke", "remedy": "look at it"}
        for name in ("ping", "mtu", "udp", "tcp", "checksum")
    }
    return {
        "subnet": f"10.244.{number}.0/24",
        "vtep": f"192.168.111.{128 + number}",
        "passed": "failed" not in outcomes.values(),
        "note": note,
        "node": f"node{number}" if number == 11 else "",
        "rtt_s": 0.00042,
        "sent_again": 0,
        "checks": checks,
    }


def stream(total: int, *peers: dict[str, Any]) -> bytes:
    """Return the lines of the daemon."""
    lines = [{"item": {"peers": total}}, *({"item": each} for each in peers), {"end": True}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_a_matrix(tmp_path: Path) -> None:
    """Ordered by subnet; a failure has its reason and remedy once, and the exit code is 1."""
    path = tmp_path / "control.sock"
    answer = stream(2, peer(10, udp="failed", checksum="failed"), peer(9, "no responder: ping only", udp="skipped"))
    with answering(path, answer, answer):
        text, programs = vxlandctl(path, "test"), vxlandctl(path, "test", "--json")
    assert text.stdout.splitlines() == [
        "SUBNET          VTEP                PING  MTU  UDP   TCP  CHECKSUM  NOTE",
        "10.244.9.0/24   192.168.111.137  0.42 ms  ok   -     ok   ok        no responder: ping only",
        "10.244.10.0/24  192.168.111.138  0.42 ms  ok   FAIL  ok   FAIL",
        "",
        "10.244.10.0/24 at 192.168.111.138: udp: it broke",
        "  look at  it",
        "",
        "2 of 2 peers tested: 1 passed (1 by ping only), 1 failed",
    ]
    assert (text.exit_code, programs.exit_code) == (1, 1)
    found = json.loads(programs.stdout)
    assert (found["passed"], found["complete"], len(found["peers"])) == (False, True, 2)


def test_names_of_nodes(tmp_path: Path) -> None:
    """They have a column where the registry knows any."""
    path = tmp_path / "control.sock"
    with answering(path, stream(2, peer(1), peer(11))):
        lines = vxlandctl(path, "test").stdout.splitlines()
    assert [line.split()[2] for line in lines[:3]] == ["NODE", "-", "node11"]


def test_all_passed(tmp_path: Path) -> None:
    """Exit 0."""
    path = tmp_path / "control.sock"
    with answering(path, stream(1, peer(1))) as asked:
        result = vxlandctl(path, "test", "--to", "10.244.1.0/24", "--to", "192.168.111.129")
    assert json.loads(asked[0]) == {"command": "test", "args": {"to": "10.244.1.0/24,192.168.111.129", "dnat": False}}
    assert result.exit_code == 0
    assert result.stdout.endswith("1 of 1 peers tested: 1 passed, 0 failed\n")


def test_no_peers(tmp_path: Path) -> None:
    """A cluster of one node has nothing to test, and nothing that fails."""
    path = tmp_path / "control.sock"
    with answering(path, stream(0)):
        result = vxlandctl(path, "test")
    assert (result.exit_code, result.stdout) == (0, "0 of 0 peers tested: 0 passed, 0 failed\n")


def test_a_daemon_that_ends_early(tmp_path: Path) -> None:
    """Not all peers were tested: exit 1."""
    path = tmp_path / "control.sock"
    with answering(path, stream(2, peer(1))):
        assert vxlandctl(path, "test").exit_code == 1


def test_a_daemon_that_dies(tmp_path: Path) -> None:
    """The results so far were lost with it."""
    path = tmp_path / "control.sock"
    with answering(path, stream(2, peer(1)).rpartition(b'{"end"')[0]):
        result = vxlandctl(path, "test")
    assert result.stdout.endswith("1 of 2 peers tested: 1 passed, 0 failed\n")
    assert (result.exit_code, "the daemon went away" in result.stderr) == (1, True)


@pytest.mark.parametrize("target", ["", "a,b", "a|b"])
def test_a_target_that_is_none(tmp_path: Path, target: str) -> None:
    """Exit 2 with the remedy, and the daemon is not asked."""
    result = vxlandctl(tmp_path / "none", "test", "--to", target)
    assert result.exit_code == 2
    assert "give one node, subnet or address" in result.stderr


def test_a_name(tmp_path: Path) -> None:
    """The registry may know a node's name, or the system resolves it: one of them must be a peer's."""
    path = tmp_path / "control.sock"
    with answering(path, stream(0), stream(0)) as asked:
        vxlandctl(path, "test", "--to", "localhost")
        vxlandctl(path, "test", "--to", "no.such.host.invalid")
    known, unknown = (json.loads(each)["args"]["to"].split("|") for each in asked)
    assert known[0] == "localhost"
    assert "127.0.0.1" in known
    assert unknown == ["no.such.host.invalid"]
