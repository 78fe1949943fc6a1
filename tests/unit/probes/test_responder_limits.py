"""Limits of the responder, with a fake clock."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from vxland.probes.responder_limits import BURST, CONNECTIONS, CONNECTIONS_EACH, DATAGRAMS_S, ResponderLimits

NODE, OTHER, POD = (ip_address(text) for text in ("10.244.1.0", "10.244.2.0", "10.244.1.19"))


def limits() -> ResponderLimits:
    """Return limits that know two nodes."""
    made = ResponderLimits()
    made.follow(added=[ip_network("10.244.1.0/24"), ip_network("10.244.2.0/24")])
    return made


def answered(made: ResponderLimits, now: float, asked: int = 1000) -> int:
    """Return how many of so many requests of a node at one moment are answered."""
    return sum(made.may_answer(NODE, now) for _ in range(asked))


def test_only_nodes_are_answered() -> None:
    """A pod, and a node that has left, get nothing."""
    made = limits()
    assert not made.may_answer(POD, 0.0)
    assert not made.may_connect(POD)
    assert made.may_answer(NODE, 0.0)
    made.follow(removed=[ip_network("10.244.1.0/24")])
    assert not made.may_answer(NODE, 0.0)
    assert not made.may_connect(NODE)


def test_a_flood_of_datagrams() -> None:
    """A burst is answered, then DATAGRAMS_S a second; another node is not affected."""
    made = limits()
    assert answered(made, 10.0) == BURST
    assert made.may_answer(OTHER, 10.0)
    assert answered(made, 10.25) == DATAGRAMS_S / 4
    assert answered(made, 1000.0) == BURST


def test_connections_of_one_node() -> None:
    """It holds CONNECTIONS_EACH; another node still gets in, and a closed one makes room."""
    made = limits()
    assert [made.may_connect(NODE) for _ in range(CONNECTIONS_EACH + 1)] == [True] * CONNECTIONS_EACH + [False]
    assert made.may_connect(OTHER)
    made.closed(NODE)
    assert made.may_connect(NODE)


def test_connections_of_all_nodes() -> None:
    """All together hold CONNECTIONS."""
    made = ResponderLimits()
    nodes = [ip_network(f"10.1.{number}.0/24") for number in range(CONNECTIONS)]
    made.follow(added=nodes)
    assert sum(made.may_connect(node.network_address) for node in nodes for _ in range(2)) == CONNECTIONS
    assert made.full
    made.closed(nodes[0].network_address)
    assert not made.full
