"""Fixtures of the pump's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fabric import Lone, lone_node


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
