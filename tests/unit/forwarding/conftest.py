"""Fixtures of the pump's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.fabric import UDP_GRO, Lone, lone_node


@pytest.fixture
def lone() -> Iterator[Lone]:
    """Node A, and a plain socket where its peer B would be."""
    with lone_node() as pair:
        yield pair


@pytest.fixture
def offloading() -> Iterator[Lone]:
    """Node A with every offload, and a plain socket where its peer B would be."""
    with lone_node(source_ports=4, offload=True) as pair:
        assert pair[0].udp.gro
        assert pair[0].udp.max_datagrams in {64, 128}
        yield pair


@pytest.fixture
def gro(offloading: Lone) -> Lone:
    """The same with UDP_GRO at the peer, whose every buffer is what one send carried."""
    offloading[1].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    return offloading
