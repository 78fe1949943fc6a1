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
