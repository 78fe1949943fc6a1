"""Several workers on one TAP, and busy polling: many flows in parallel, with a kernel vxlan peer.

pod a - cni0 - flannel.1 (vxland, 1 to 3 workers) ===== flannel.1 (kernel vxlan) - cni0 - pod b
                beside the fast path, and alone

The kernel's hash of the flow chooses queues and sockets, so each worker gets some of many flows, and all of one.
lab.py has the addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import running
from .lab import Lab
from .traffic import exchange_udp, no_checksum_errors, ping, send_tcp

pytestmark = pytest.mark.netns

FLOWS = 12
TCP_BYTES = 400_000


@pytest.fixture(scope="module", params=["compiled", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """The lab with the compiled gear, the only one with several workers."""
    yield from running(Lab(tmp_path_factory.mktemp("workers"), request.param))


def restart(lab: Lab, **datapath: int) -> None:
    """Restart vxland with these settings of the section `datapath`."""
    lab.vxland.stop()
    lab.vxland.settings["datapath"] |= datapath
    lab.vxland.start()


@pytest.mark.parametrize(
    ("lab", "workers"),
    [("compiled", 2), ("compiled", 1), ("compiled", 3), ("fast-path", 2)],
    indirect=["lab"],
    scope="module",
)
def test_many_flows_cross(lab: Lab, workers: int) -> None:
    """After a run with any number of workers: the device is taken over, and every flow arrives whole."""
    restart(lab, workers=workers)
    opened = lab.vxland.events("devices_open")[-1]
    assert opened["workers"] == workers
    a, b = lab.a, lab.b
    with no_checksum_errors(a.ns, a.pod_ns, b.ns, b.pod_ns):
        for _ in range(FLOWS):
            send_tcp(a.pod_ns, b.pod_ns, b.pod[4], TCP_BYTES)
            send_tcp(b.pod_ns, a.pod_ns, a.pod[4], TCP_BYTES)
            exchange_udp(a.pod_ns, a.pod[4], b.pod_ns, b.pod[4], (64, 1422))
    ping(a.pod_ns, b.pod[6])


@pytest.mark.parametrize("lab", ["compiled"], indirect=True, scope="module")
def test_a_second_vxland_is_refused(lab: Lab) -> None:
    """SO_REUSEPORT is for vxland's own workers: another socket on the port is detected before it is set."""
    restart(lab, workers=2)
    lab.vxland.stop()
    with lab.a.ns.socket(lab.a.vtep, port=8472):
        refused = lab.a.ns.attempt(*lab.vxland.command()[4:])
    assert refused.returncode == 1
    assert "UDP port 8472 is held by" in refused.stderr


def test_busy_polling(lab: Lab) -> None:
    """A polling worker forwards the same traffic, and is idle again after it."""
    restart(lab, busy_poll_us=200)
    a, b = lab.a, lab.b
    with no_checksum_errors(a.ns, a.pod_ns, b.ns, b.pod_ns):
        send_tcp(a.pod_ns, b.pod_ns, b.pod[4], TCP_BYTES)
        send_tcp(b.pod_ns, a.pod_ns, a.pod[4], TCP_BYTES)
    ping(a.pod_ns, b.pod[4])
