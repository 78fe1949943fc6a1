"""A user of the node who can reach the control socket and the metrics port: connections, silence and garbage.

pod a --+
        +- cni0 - flannel.1 (vxland, one worker) ===== flannel.1 (kernel vxlan) - cni0 - pod b
        +- the user, on the node itself                             (interop/lab.py has the addresses)

The cost is bounded, in counts: descriptors and threads of the daemon, lines of its log; no ping of a pod is lost.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.netns.interop.asking import METRICS, ask, control, page
from tests.netns.interop.conftest import running
from tests.netns.interop.lab import Lab
from tests.netns.interop.ns import wait_until
from tests.netns.interop.traffic import ping
from vxland.ops.api_server import MAX_CLIENTS as CONTROL_CLIENTS
from vxland.ops.api_server import MAX_REFUSED
from vxland.ops.metrics import MAX_CLIENTS as METRICS_CLIENTS

pytestmark = pytest.mark.netns

CONNECTIONS = 150
SPARE = 8  # descriptors of a scrape, of vxlandctl, and of a connection being made
GARBAGE = [b"", b"GET /metr", b"\0\xff" * 2000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 90, b'{"command": ' * 200]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Node a runs vxland with metrics; node b uses the kernel's device."""
    made = Lab(tmp_path_factory.mktemp("user"), "compiled")
    made.vxland.settings["metrics"] = {"listen": METRICS}
    yield from running(made)


def held(lab: Lab) -> tuple[int, int]:
    """Return descriptors and threads of the daemon."""
    proc = Path("/proc") / str(lab.vxland.pid)
    return len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir()))


def log_lines(lab: Lab) -> int:
    """Return the number of lines that the daemon has logged."""
    return len(lab.vxland.said().splitlines())


@pytest.mark.parametrize("said", GARBAGE, ids=["nothing", "half", "noise", "headers", "nesting"])
def test_connections_to_metrics_cost_a_bounded_number_of_threads(lab: Lab, said: bytes) -> None:
    """3,000 slow connections took 2,010 threads and descriptors, and scrapes got no answer."""
    descriptors, threads = held(lab)
    lines = log_lines(lab)
    host, port = METRICS.split(":")
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            sock = stack.enter_context(lab.a.ns.inside(lambda: socket.create_connection((host, int(port)), timeout=30)))
            with suppress(OSError):  # closed in favour of the next one
                sock.sendall(said)
        more = held(lab)
        assert more[0] <= descriptors + METRICS_CLIENTS + SPARE
        assert more[1] <= threads + METRICS_CLIENTS + SPARE
        assert page(lab, "/healthz") == "vxland is running\n"
        assert "vxland_frames_total" in page(lab, "/metrics")
        ping(lab.a.pod_ns, lab.b.pod[4])
    assert log_lines(lab) <= lines + 2


@pytest.mark.parametrize("said", GARBAGE, ids=["nothing", "half", "noise", "headers", "nesting"])
def test_connections_to_the_control_socket_cost_a_bounded_number_of_descriptors(lab: Lab, said: bytes) -> None:
    """A member of the group vxland can do this; other users, except root, cannot even connect."""
    descriptors, threads = held(lab)
    lines = log_lines(lab)
    path = control(lab.vxland)
    assert path.stat().st_mode & 0o007 == 0
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))  # waits if the queue is full
            sock.settimeout(30)
            with suppress(OSError):  # already refused
                sock.sendall(said)
        more = held(lab)
        assert more[0] <= descriptors + CONTROL_CLIENTS + MAX_REFUSED + SPARE
        assert more[1] <= threads + SPARE
        ping(lab.a.pod_ns, lab.b.pod[4])
        assert page(lab, "/healthz") == "vxland is running\n"
    wait_until(lambda: held(lab)[0] <= descriptors + SPARE, "the descriptors are given back", lab.vxland.said)
    assert ask(lab.vxland, "status")
    assert log_lines(lab) <= lines + 2
