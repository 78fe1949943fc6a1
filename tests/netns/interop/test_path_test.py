"""`vxlandctl test` between two vxlands, with faults made at either node.

    flannel.1 10.244.0.0 (vxland) ---- e0 ===== e0 ---- flannel.1 10.244.1.0 (vxland)

A rule in a node's output chain damages checksums, as a device does that is to complete one, and writes a wrong one.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import pytest

from tests.patience import PATIENCE_S
from vxland.probes.responder_limits import BURST, CONNECTIONS_EACH, DATAGRAMS_S
from vxland.wire.path_check import HDR_LEN, Request, build_request, parse_reply

from .asking import ask, ask_json, control
from .conftest import running
from .lab import FAMILIES, Family, Lab, Node, Vxland
from .ns import wait_until

pytestmark = pytest.mark.netns

PORT: Final = 9473
FLOOD: Final = 3000


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two vxlands."""
    yield from running(Lab(tmp_path_factory.mktemp("lab"), "compiled", "compiled"))


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Two vxlands whose packets programs carry; e0 has no checksum offload, so checksums are complete there."""
    made = Lab(tmp_path_factory.mktemp("fast"), "compiled", "compiled").with_fast_path()
    for each in running(made):
        for node in each.nodes:
            node.ns.run("ethtool", "-K", "e0", "tx", "off")
        yield each


@pytest.fixture(scope="module")
def beside_kernel(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """A vxland and a kernel vxlan node."""
    yield from running(Lab(tmp_path_factory.mktemp("kernel"), "compiled"))


def results(vxland: Vxland, *words: str, passed: bool) -> dict[str, dict[str, Any]]:
    """Run a test that passes or not; return the results by subnet."""
    done = subprocess.run(command(vxland, *words, "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == int(not passed), done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["complete"]
    assert answer["passed"] is passed
    return {peer["subnet"]: peer for peer in answer["peers"]}


def command(vxland: Vxland, *words: str) -> list[str]:
    """Return the command line of a test."""
    return [sys.executable, "-m", "vxland.ctl", "--socket", str(control(vxland)), "test", *words]


def outcomes(peer: dict[str, Any]) -> dict[str, str]:
    """Return the outcome of each check."""
    return {name: check["outcome"] for name, check in peer["checks"].items()}


@contextmanager
def rule(node: Node, hook: str, rule: str, family: str = "inet") -> Iterator[None]:
    """A rule in a chain of a node."""
    table = f"{family} broken"
    chain = f"add table {table}; add chain {table} at {{ type filter hook {hook}; }}"
    node.ns.run("nft", f"{chain}; add rule {table} at {rule}")
    try:
        yield
    finally:
        node.ns.run("nft", f"delete table {table}")


WRONG_UDP: Final = "oifname flannel.1 udp checksum != 0 udp checksum set 0x1234"
WRONG_TCP: Final = "oifname flannel.1 meta length > 500 tcp checksum set 0x1234"
ALL: Final = ("ping", "mtu", "udp", "tcp", "checksum")


def test_all_is_well(lab: Lab) -> None:
    """Every check of both families passes, as text and as JSON, and --to chooses peers by subnet, address and VTEP."""
    found = results(lab.vxland, passed=True)
    assert set(found) == {lab.b.subnet[family] for family in FAMILIES}
    for peer in found.values():
        assert outcomes(peer) == dict.fromkeys(ALL, "passed")
        assert (peer["note"], peer["sent_again"]) == ("", 0)
    text = ask(lab.vxland, "test")
    assert "2 of 2 peers tested: 2 passed, 0 failed" in text
    chosen_by: list[tuple[str, list[Family]]] = [(lab.b.subnet[4], [4]), (lab.b.pod[6], [6]), (lab.b.vtep, [4, 6])]
    for target, families in chosen_by:
        chosen = results(lab.vxland, "--to", target, passed=True)
        assert set(chosen) == {lab.b.subnet[family] for family in families}


def tables(node: Node) -> str:
    """Return the names of a node's nftables."""
    return node.ns.run("nft", "list", "tables")


def test_dnat(lab: Lab) -> None:
    """A connection that nat rules turn to the peer passes; the rules are gone then, and other columns stay."""
    before = tables(lab.a)
    for peer in results(lab.vxland, "--dnat", passed=True).values():
        assert outcomes(peer) == dict.fromkeys((*ALL, "dnat"), "passed")
    assert "DNAT" in ask(lab.vxland, "test", "--dnat")
    assert tables(lab.a) == before


def test_damaged_dnat(lab: Lab) -> None:
    """Only what nat has changed has a wrong checksum, as connections to a NodePort had that took 63 s: found."""
    with rule(lab.a, "postrouting priority 200", "oifname flannel.1 ct status dnat tcp checksum set 0x1234"):
        before = tables(lab.a)
        for peer in results(lab.vxland, "--dnat", passed=False).values():
            assert outcomes(peer) == dict.fromkeys(ALL, "passed") | {"dnat": "failed"}
            assert "a direct connection passes" in peer["checks"]["dnat"]["happened"]
        assert tables(lab.a) == before


def test_the_fast_path(carried: Lab) -> None:
    """Programs carry the packets of a test as they carry pods', and damaged checksums are found behind them too."""
    assert all(outcomes(peer) == dict.fromkeys(ALL, "passed") for peer in results(carried.vxland, passed=True).values())
    assert ask_json(carried.vxland, "stats")["fast_path"]["encap"]["frames"] > 0
    with rule(carried.a, "output priority 0", WRONG_UDP):
        for peer in results(carried.vxland, passed=False).values():
            assert outcomes(peer) == dict.fromkeys(ALL, "passed") | {"udp": "failed", "checksum": "failed"}


def test_targets_that_nobody_has(lab: Lab) -> None:
    """Exit 2, and the error names value and remedy."""
    assert "no peer has it: see vxlandctl peers" in ask(lab.vxland, "test", "--to", "10.250.0.0/24", code=2)
    assert "use a subnet, an address" in ask(lab.vxland, "test", "--to", "10.250.0.1/24", code=2)
    assert "no peer has it: see vxlandctl peers" in ask(lab.vxland, "test", "--to", "no-such-node", code=2)


@pytest.mark.parametrize("damaged", ["there", "back"])
def test_damaged_checksums(lab: Lab, damaged: str) -> None:
    """UDP checksums are wrong in one direction: found, with the node whose offload does it, though pings pass."""
    node, remedy = (lab.a, "on this node") if damaged == "there" else (lab.b, "on that node")
    with rule(node, "output priority 0", WRONG_UDP):
        for subnet, peer in results(lab.vxland, passed=False).items():
            assert outcomes(peer) == dict.fromkeys(ALL, "passed") | {"udp": "failed", "checksum": "failed"}
            check = peer["checks"]["checksum"]
            way = ("from", "to")[damaged == "there"]
            assert check["happened"].startswith(f"datagrams {way} {subnet.partition('/')[0]} arrive only without")
            assert check["remedy"].endswith(remedy)
    results(lab.vxland, passed=True)


def test_damaged_checksums_of_tcp(lab: Lab) -> None:
    """Only full TCP segments have a wrong checksum: the connection stalls, and the peer's kernel has counted why."""
    with rule(lab.a, "output priority 0", WRONG_TCP):
        for peer in results(lab.vxland, passed=False).values():
            assert outcomes(peer) == dict.fromkeys(ALL, "passed") | {"tcp": "failed", "checksum": "failed"}
            assert "the connection stalls: 0 of" in peer["checks"]["tcp"]["happened"]
            assert peer["sent_again"] > 0
            assert f"{lab.b.vtep} counted" in peer["checks"]["checksum"]["happened"]


def test_an_mtu_hole(lab: Lab) -> None:
    """Large packets are lost on the way: the cause that `vxlandctl peers` knows, and UDP and TCP feel it."""
    with rule(lab.b, "prerouting priority -500", "iifname e0 udp dport 8472 meta length > 1478 drop"):
        for peer in results(lab.vxland, passed=False).values():
            found = dict.fromkeys(ALL, "failed") | {"ping": "passed", "checksum": "passed"}
            assert outcomes(peer) == found
            assert peer["checks"]["mtu"]["happened"].startswith("mtu_hole: a packet of 1450 bytes does not pass")
            assert "packets of 1450 bytes are lost" in peer["checks"]["udp"]["happened"]


def test_a_filtered_port(lab: Lab) -> None:
    """A firewall drops the responder's port: pings pass, and that is not taken for a success."""
    with rule(lab.b, "input priority 0", f"iifname flannel.1 th dport {PORT} drop"):
        for peer in results(lab.vxland, "--to", lab.b.subnet[4], passed=False).values():
            assert outcomes(peer)["ping"] == "passed"
            assert outcomes(peer)["udp"] == outcomes(peer)["tcp"] == "failed"
            assert "not even a refusal, though pings pass" in peer["checks"]["udp"]["happened"]


def test_an_end_by_ctrl_c(lab: Lab) -> None:
    """One test at a time; Ctrl-C prints what is known, exits 1, and the daemon has ended its test too."""
    assert lab.other is not None
    lab.other.send_signal(signal.SIGSTOP)
    try:
        with subprocess.Popen(command(lab.vxland, "--dnat"), stdout=subprocess.PIPE, text=True) as first:
            try:
                wait_until(lambda: "vxland-test" in tables(lab.a), "the first test has rules", lab.vxland.said)
                assert "another test runs" in ask_error(lab.vxland)
                first.send_signal(signal.SIGINT)
                said, _ = first.communicate(timeout=PATIENCE_S)
            finally:
                first.kill()
    finally:
        lab.other.send_signal(signal.SIGCONT)
    assert first.returncode == 1
    assert said == "0 of 2 peers tested: 0 passed, 0 failed\n"
    wait_until(lambda: "vxland-test" not in tables(lab.a), "no rules are left", lab.vxland.said)
    results(lab.vxland, passed=True)


def ask_error(vxland: Vxland) -> str:
    """Return why a test is refused: its peer does not exist."""
    return subprocess.run(command(vxland, "--to", "10.250.0.0/24"), capture_output=True, text=True, check=False).stderr


@pytest.fixture
def unknown_sender(lab: Lab) -> Iterator[dict[Family, str]]:
    """Addresses of node a that are no node's own: others of its subnet, as pods have."""
    own: dict[Family, str] = {4: "10.244.0.77", 6: "fd00:10:244:10::77"}
    lab.a.ns.batch(f"addr add {own[4]} dev lo", f"addr add {own[6]} dev lo nodad")  # a tentative one cannot be bound
    yield own
    lab.a.ns.batch("addr del 10.244.0.77 dev lo", "addr del fd00:10:244:10::77 dev lo")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_sender(lab: Lab, unknown_sender: dict[Family, str], family: Family) -> None:
    """No answer at all, not even to a SYN; the same question from the node's own address is answered."""
    request = build_request(Request(0, bytes(16)), 200)
    target = (lab.b.base[family], PORT)
    with (
        lab.a.ns.socket(unknown_sender[family]) as foreign,
        lab.a.ns.socket(lab.a.base[family]) as known,
        lab.a.ns.socket(unknown_sender[family], socket.SOCK_STREAM) as connecting,
        lab.b.ns.socket(lab.b.gateway[family]) as inside,
    ):
        connecting.setblocking(False)
        with suppress(BlockingIOError):
            connecting.connect(target)
        for sock in (foreign, inside, known):
            sock.sendto(request, target)
        answer = known.recv(65535)
        assert parse_reply(answer) is not None
        assert len(answer) == len(request)
        with lab.a.ns.socket(lab.a.base[family], socket.SOCK_STREAM) as connected:
            connected.connect(target)
            connected.sendall(b"echo")
            assert connected.recv(4, socket.MSG_WAITALL) == b"echo"
        for sock in (foreign, inside):
            sock.setblocking(False)
            with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                sock.recv(65535)
        with pytest.raises((BlockingIOError, OSError)):
            connecting.send(b"x")


def test_a_forged_syn(lab: Lab) -> None:
    """A sender may be forged until a connection is established: it got six SYN-ACKs for one SYN, in 32 s."""

    def half_open() -> str:
        return lab.b.ns.run("ss", "-Htn", "state", "syn-recv", f"sport = :{PORT}")

    answers = f"iifname flannel.1 tcp sport {PORT} tcp flags & (syn | ack) == (syn | ack)"
    with rule(lab.a, "input priority 0", f"{answers} counter drop"):
        with lab.a.ns.socket(lab.a.base[4], socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((lab.b.base[4], PORT))
            wait_until(half_open, "a SYN that was answered")
        wait_until(lambda: not half_open(), "the end of the answers")
        counted = re.search(r"counter packets (\d+)", lab.a.ns.run("nft", "list", "ruleset"))
    assert counted is not None
    assert 0 < int(counted[1]) < 4


def test_answers_answer_nothing(lab: Lab) -> None:
    """Replies, short datagrams and others get no answer: two responders cannot be set on one another."""
    request = build_request(Request(0, b"t" * 16), HDR_LEN)
    with lab.a.ns.socket(lab.a.base[4]) as sock:
        sock.sendto(request, (lab.b.base[4], PORT))
        reply = sock.recv(65535)
        for wrong in (reply, request[:-1], b"", b"x" * 200, b"\0" * HDR_LEN):
            sock.sendto(wrong, (lab.b.base[4], PORT))
        sock.sendto(request, (lab.b.base[4], PORT))
        assert sock.recv(65535) == reply
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(65535)


def test_a_flood(lab: Lab) -> None:
    """A known node that floods gets few answers, holds two connections, and cannot keep others' tests out."""
    assert lab.other is not None
    target = (lab.b.base[4], PORT)
    request = build_request(Request(0, b"f" * 16), 1400)
    before, began = ask_json(lab.other, "status")["planes"][0]["responder"]["answered"], time.monotonic()
    with ExitStack() as stack:
        sock = stack.enter_context(lab.a.ns.socket(lab.a.base[4]))
        for _ in range(FLOOD):
            sock.sendto(request, target)
        held = [stack.enter_context(lab.a.ns.socket(lab.a.base[4], socket.SOCK_STREAM)) for _ in range(20)]
        for each in held:
            with suppress(OSError):
                each.connect(target)
        alive = 0
        for each in held:
            with suppress(OSError):
                each.sendall(b"x")
                alive += each.recv(1) == b"x"
        assert alive == CONNECTIONS_EACH
        answered = ask_json(lab.other, "status")["planes"][0]["responder"]["answered"] - before
        assert CONNECTIONS_EACH < answered <= BURST + DATAGRAMS_S * (time.monotonic() - began) + CONNECTIONS_EACH
        results(lab.vxland, "--to", lab.b.subnet[6], passed=True)
    wait_until(lambda: "1 passed" in ask_matrix(lab.vxland, lab.b.subnet[4]), "the flood is over", lab.other.said)


def ask_matrix(vxland: Vxland, subnet: str) -> str:
    """Return the matrix of one peer, passed or not."""
    return subprocess.run(command(vxland, "--to", subnet), capture_output=True, text=True, check=False).stdout


def test_a_new_device(lab: Lab) -> None:
    """The responder listens on the device that vxland makes again."""
    other = lab.other
    assert other is not None
    seen = len(other.events("device_recreated"))
    lab.b.ns.ip("link delete flannel.1")
    wait_until(lambda: len(other.events("device_recreated")) > seen, "a new device", other.said)
    other.wait_for_peers()
    wait_until(lambda: "2 passed" in ask_matrix(lab.vxland, lab.b.vtep), "the test passes", other.said)


def test_a_taken_port(lab: Lab) -> None:
    """Another program has the port: the log and status say so, a test says there is no responder; then it listens."""
    assert lab.other is not None
    lab.other.stop()
    with lab.b.ns.socket("", socket.SOCK_DGRAM, PORT):
        lab.other.start()
        event = lab.other.wait_for("responder_off")
        assert event["cause"] == f"port {PORT} of flannel.1: Address already in use"
        assert f"responder  off: port {PORT} of flannel.1" in ask(lab.other, "status")
    wait_until(lambda: "2 passed" in ask_matrix(lab.vxland, lab.b.vtep), "the test passes", lab.other.said)


def test_a_kernel_neighbour(beside_kernel: Lab) -> None:
    """A kernel vxlan node has no responder: pinged, with a full packet too, and the matrix says that this is all."""
    for peer in results(beside_kernel.vxland, passed=True).values():
        assert outcomes(peer) == dict.fromkeys(("udp", "tcp", "checksum"), "skipped") | {
            "ping": "passed",
            "mtu": "passed",
        }
        assert peer["note"] == "no responder: ping only"
    text = ask(beside_kernel.vxland, "test")
    assert "2 of 2 peers tested: 2 passed (2 by ping only), 0 failed" in text


def test_a_kernel_neighbour_without_its_device(beside_kernel: Lab) -> None:
    """The peer's device is gone: unreachable, with the cause that `vxlandctl peers` knows."""
    mac = beside_kernel.b.mac()
    beside_kernel.kernel.delete()
    try:
        for peer in results(beside_kernel.vxland, passed=False).values():
            assert outcomes(peer) == dict.fromkeys(ALL, "skipped") | {"ping": "failed"}
            assert peer["checks"]["ping"]["happened"].startswith("port_closed: ")
    finally:
        beside_kernel.kernel.create(mac)
        beside_kernel.kernel.add_peer(beside_kernel.a, beside_kernel.a.mac())
