"""A node whose kernel forwards no packets of its pods: vxland reports it, with all else well. lab.py has the topology.

pod a - cni0 - [ the kernel of node a: sysctls, FORWARD rules ] - flannel.1 (vxland) ===== node b
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vxland.lab import shell

from .asking import METRICS, ask, ask_json, page
from .conftest import running
from .lab import Lab
from .ns import wait_until
from .traffic import ping

pytestmark = pytest.mark.netns

CHAIN = "add table {family} own; add chain {family} own fwd_ {{ type filter hook forward priority 0; policy drop; }}"


either = pytest.mark.parametrize("lab", ["compiled", "fast-path"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["compiled"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland, with metrics. What programs carry takes the same way through the kernel of node a."""
    made = Lab(tmp_path_factory.mktemp("lab"), request.param)
    made.vxland.settings["metrics"]["listen"] = METRICS
    yield from running(made)


def trace(lab: Lab, near: str, far: str) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return the output of `vxlandctl trace` for a packet."""
    return ask_json(lab.vxland, "trace", near, far)


def problems(lab: Lab) -> list[dict[str, Any]]:
    """Return the forwarding problems in `vxlandctl status`."""
    (plane,) = ask_json(lab.vxland, "status")["planes"]
    assert plane["forwarding"]["unknown"] == ""
    found: list[dict[str, Any]] = plane["forwarding"]["problems"]
    return found


def is_lost(lab: Lab) -> bool:
    """Return whether a packet of pod a is really lost."""
    done = lab.a.pod_ns.attempt("ping", "-c", "1", "-W", "1", lab.b.pod[4])
    return done.returncode != 0


def reported_everywhere(lab: Lab, cause: str) -> None:
    """Assert that status, readiness (which stays), metrics and the log name the cause."""
    line = f"pods' packets are lost in this node's kernel: {cause}"
    assert line in ask(lab.vxland, "status")
    first, *more = page(lab, "/readyz").splitlines()
    assert first == "vxland is ready"
    assert any(each.startswith(line) for each in more)
    assert 'vxland_not_forwarded{device="flannel.1"} 0.0' not in page(lab, "/metrics")
    assert lab.vxland.events("pods_not_forwarded")[-1]["cause"].startswith(cause)


def all_is_well(lab: Lab) -> None:
    """Assert that no problem is reported any more, and packets cross."""
    ping(lab.a.pod_ns, lab.b.pod[4])
    ping(lab.b.pod_ns, lab.a.pod[6])
    assert trace(lab, lab.a.pod[4], lab.b.pod[4])["verdict"] == "forward"


@pytest.fixture(autouse=True)
def _well(lab: Lab) -> Iterator[None]:
    """Nothing prevents forwarding before and after each test."""
    assert wait_for_problems(lab, 0) == []
    yield
    assert wait_for_problems(lab, 0) == []
    all_is_well(lab)


def wait_for_problems(lab: Lab, count: int) -> list[dict[str, Any]]:
    """Return the problems, once there are `count`; a recent result is not checked again at once."""
    wait_until(lambda: len(problems(lab)) == count, f"{count} problems", lambda: str(problems(lab)))
    return problems(lab)


@contextmanager
def sysctl(lab: Lab, *keys: str) -> Iterator[None]:
    """These sysctls of node a are 0."""
    for key in keys:
        shell.set_sysctl(lab.a.ns.name, key, 0)
    try:
        yield
    finally:
        for key in keys:
            shell.set_sysctl(lab.a.ns.name, key, 1)


@either
def test_a_node_that_does_not_forward(lab: Lab) -> None:
    """ip_forward was 0: ready, reachable, "nothing to change", verdict forward, and every pod's packet lost."""
    with sysctl(lab, "ipv4.ip_forward"):
        (problem,) = wait_for_problems(lab, 1)
        assert is_lost(lab)
        assert (problem["version"], problem["direction"]) == (4, "both")
        assert problem["remedy"] == "sysctl -w net.ipv4.ip_forward=1"
        reported_everywhere(lab, "net.ipv4.ip_forward is 0")
        for near, far in ((lab.a.pod[4], lab.b.pod[4]), (lab.b.pod[4], lab.a.pod[4])):
            found = trace(lab, near, far)
            assert (found["verdict"], found["reason"]) == ("drop", "not_forwarded")
            assert "net.ipv4.ip_forward is 0" in str(found["steps"])
        assert trace(lab, lab.a.pod[6], lab.b.pod[6])["verdict"] == "forward"
        assert trace(lab, lab.a.base[4], lab.b.pod[4])["verdict"] == "forward"  # sent, not forwarded


def test_ipv6(lab: Lab) -> None:
    """The same for IPv6."""
    with sysctl(lab, "ipv6.conf.all.forwarding"):
        (problem,) = wait_for_problems(lab, 1)
        assert problem["version"] == 6
        reported_everywhere(lab, "net.ipv6.conf.all.forwarding is 0")
        assert trace(lab, lab.a.pod[6], lab.b.pod[6])["verdict"] == "drop"
        assert trace(lab, lab.a.pod[4], lab.b.pod[4])["verdict"] == "forward"


@pytest.mark.parametrize(("interface", "direction"), [("flannel/1", "decap"), ("cni0", "encap")])
def test_one_interface(lab: Lab, interface: str, direction: str) -> None:
    """Forwarding may be off for packets from one interface: one direction is lost. The remedy can be pasted."""
    lab.a.ns.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.forwarding=0")
    (problem,) = wait_for_problems(lab, 1)
    assert problem["direction"] == direction
    for way, ends in (("encap", (lab.a.pod[4], lab.b.pod[4])), ("decap", (lab.b.pod[4], lab.a.pod[4]))):
        assert trace(lab, *ends)["verdict"] == ("drop" if way == direction else "forward")
    lab.a.ns.run(*problem["remedy"].split())


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_forward_policy_of_drop(lab: Lab, backend: str) -> None:
    """As Docker or a hardened node sets it; packets that flannel's rules accept are not lost."""
    program = f"iptables-{backend}"
    lab.a.ns.run(program, "-P", "FORWARD", "DROP")
    try:
        found = wait_for_problems(lab, 2)
        assert is_lost(lab)
        assert {problem["direction"] for problem in found} == {"encap", "decap"}
        reported_everywhere(lab, "the chain FORWARD of iptables (")
        assert trace(lab, lab.a.pod[4], lab.b.pod[4])["reason"] == "not_forwarded"
        lab.a.ns.run(program, "-A", "FORWARD", "-p", "icmp", "-j", "ACCEPT")  # as ufw has it
        wait_until(lambda: {each["proto"] for each in problems(lab)} == {"tcp"}, "TCP alone is lost")
        assert not is_lost(lab)
        reported_everywhere(lab, "the chain FORWARD of iptables (")
        assert trace(lab, lab.a.pod[4], lab.b.pod[4])["verdict"] == "forward"
        connection = ask_json(lab.vxland, "trace", lab.a.pod[4], lab.b.pod[4], "tcp", "80")
        assert (connection["verdict"], connection["reason"]) == ("drop", "not_forwarded")
        for option in ("-s", "-d"):
            lab.a.ns.run(program, "-A", "FORWARD", option, "10.244.0.0/16", "-j", "ACCEPT")
        wait_for_problems(lab, 0)
        assert not is_lost(lab)
    finally:
        lab.a.ns.run(program, "-P", "FORWARD", "ACCEPT")
        lab.a.ns.run(program, "-F", "FORWARD")


@pytest.mark.parametrize(("family", "count"), [("inet", 4), ("ip", 2), ("ip6", 2)])
def test_a_chain_of_nftables(lab: Lab, family: str, count: int) -> None:
    """Firewalld and manual rule sets have their own chains; each of them can drop."""
    lab.a.ns.run("nft", CHAIN.format(family=family))
    try:
        wait_for_problems(lab, count)
        assert is_lost(lab) == (family != "ip6")
        reported_everywhere(lab, f"the chain fwd_ of nftables ({family} own), policy drop")
        lab.a.ns.run("nft", f"add rule {family} own fwd_ iifname {{ cni0, flannel.1 }} accept")
        wait_for_problems(lab, 0)
        assert not is_lost(lab)
    finally:
        lab.a.ns.run("nft", f"delete table {family} own")


def test_it_is_found_at_the_start(lab: Lab) -> None:
    """A node that starts in this state reports it in the log and in /readyz by itself."""
    lab.vxland.stop()
    with sysctl(lab, "ipv4.ip_forward"):
        lab.vxland.start()
        event = lab.vxland.wait_for("pods_not_forwarded")
        assert event["remedy"] == "sysctl -w net.ipv4.ip_forward=1"
        assert "net.ipv4.ip_forward is 0" in page(lab, "/readyz")
