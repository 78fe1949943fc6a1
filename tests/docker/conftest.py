"""One engine and one overlay for all tests here; removed after the last, on failure and Ctrl-C too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker import images
from tests.docker.engine import Engine
from tests.installed import ROOT
from tests.removal import removing

SCRATCH = ROOT / "build" / "docker"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine, with base images that need no registry."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    found = Engine(SCRATCH, images.client_plugins(SCRATCH))
    with removing(found.stop):
        found.start()
        images.make(found, SCRATCH)
        yield found


@pytest.fixture(scope="session")
def built(engine: Engine) -> Engine:
    """The engine with both images of the Dockerfile, built from the current sources."""
    engine.compose("build", "node1", "pod1")
    engine.run("image", "prune", "-f")  # images of an earlier run
    return engine


@pytest.fixture(scope="session")
def overlay(built: Engine) -> Engine:
    """The engine with compose.yaml up."""
    done = built.attempt("compose", "up", "--wait")
    assert done.returncode == 0, f"{done.stderr}\n{built.compose('logs')}"
    return built


@pytest.fixture(scope="session")
def metrics(overlay: Engine) -> Engine:
    """The same with Prometheus; Grafana's image is not available without a registry."""
    overlay.compose("--profile", "metrics", "up", "--detach", "prometheus")
    return overlay
