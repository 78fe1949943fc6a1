"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

import setup as build
from vxland import pure_wanted

# Its deadline of 200 ms an example is a timed assertion, which a busy machine fails.
settings.register_profile("vxland", deadline=None)
settings.load_profile("vxland")


def pytest_configure(config: pytest.Config) -> None:
    """Stop at once where an extension would run that was built of other sources than those that lie beside it."""
    worker = hasattr(config, "workerinput")  # of pytest-xdist, whose first process has looked
    if worker or pure_wanted():
        return
    if names := build.stale():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise pytest.UsageError(f"{names[0]}{more}: compiled of other sources than these; run `make build`")
