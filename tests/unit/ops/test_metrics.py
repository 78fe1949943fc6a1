"""The HTTP side: what Prometheus and a supervisor read, from a real server on loopback."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vxland.errors import StartError
from vxland.ops.metrics import MetricsServer
from vxland.ops.sample import Direction, Sample

SAMPLE = Sample({"decap": Direction(3, 300, {"too_short": 2, "own_mac": 0})}, leases=5, not_ready="")


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[MetricsServer, str]]:
    """A server on a free port of either family's loopback, and its URL."""
    with closing(MetricsServer(request.param, 0, lambda: SAMPLE)) as server:
        host = f"[{request.param}]" if ":" in request.param else request.param
        yield server, f"http://{host}:{server.port}"


def get(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  (loopback)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_metrics_have_the_documented_names(server: tuple[MetricsServer, str]) -> None:
    """Names and labels are those that outside tests rely on; a reason that never happened is there as 0."""
    status, text = get(server[1] + "/metrics")
    assert status == 200
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found == {
        ("vxland_frames_total", "decap"): 3,
        ("vxland_bytes_total", "decap"): 300,
        ("vxland_drops_total", "decap", "too_short"): 2,
        ("vxland_drops_total", "decap", "own_mac"): 0,
        ("vxland_leases",): 5,
        ("vxland_registry_readable",): 1,
        ("vxland_registry_quarantined",): 0,
    }


def test_health(server: tuple[MetricsServer, str]) -> None:
    """/healthz answers while the process lives, /readyz once frames can move, and nothing else is there."""
    assert get(server[1] + "/healthz") == (200, "vxland is running\n")
    assert get(server[1] + "/readyz") == (200, "vxland is ready\n")
    assert get(server[1] + "/secrets")[0] == 404


def test_not_ready_says_why() -> None:
    """/readyz is 503 with the reason."""
    waiting = Sample({}, leases=0, not_ready="the device has not been set up yet")
    with closing(MetricsServer("127.0.0.1", 0, lambda: waiting)) as server:
        assert get(f"http://127.0.0.1:{server.port}/readyz") == (503, "the device has not been set up yet\n")


def test_a_taken_port_is_told() -> None:
    """The second server on a port names the key, the address and the remedy."""
    with closing(MetricsServer("127.0.0.1", 0, lambda: SAMPLE)) as server, pytest.raises(StartError) as raised:
        MetricsServer("127.0.0.1", server.port, lambda: SAMPLE)
    assert str(raised.value).startswith(f"metrics.listen: 127.0.0.1:{server.port} cannot be bound")
