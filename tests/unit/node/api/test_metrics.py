"""Metrics and readiness over HTTP, from a real server on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPConnection
from ipaddress import ip_address, ip_network
from platform import python_version
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.patience import PATIENCE_S
from tests.web import get
from vxland import __version__
from vxland.forwarding.counts import Direction, PeerTraffic, SocketQueue
from vxland.forwarding.pump import COMPILED
from vxland.model.errors import StartError
from vxland.model.lease import Lease, Mac, RegistryHealth, Vtep
from vxland.node.api.http import open_metrics
from vxland.node.api.metric_families import MAX_PEERS, by_address
from vxland.node.sample import DeviceSample, NodeSample, Reconciling
from vxland.node.tasks import HUNG_S, ManagerReports
from vxland.ops.commit import commit
from vxland.ops.metrics import MAX_CLIENTS, MetricsServer
from vxland.probes.reach import Cause, CauseLabel, Probing, Reach

NOTHING = dict(Direction().counts)
SAMPLE = NodeSample(
    {"decap": Direction(NOTHING | {"frames": 3, "bytes": 300}, {"too_short": 2, "own_mac": 0})},
    leases=5,
    not_ready="",
    cpu={"used": 7.5, "waited": 0.5},
    loop_held_s=0.25,
    loop_holder="Node.run",
    carried={"decap": Direction(NOTHING | {"frames": 2, "bytes": 200}, {})},
)


BUILD = (
    commit(),
    "compiled" if COMPILED else "interpreted",
    python_version(),
    __version__,
)  # in the order of the label names


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[MetricsServer, str]]:
    """Yield a server on a free port of either family's loopback, and its URL."""
    with closing(open_metrics(request.param, 0, lambda: SAMPLE)) as server:
        host = f"[{request.param}]" if ":" in request.param else request.param
        yield server, f"http://{host}:{server.port}"


def test_metrics_have_the_documented_names(server: tuple[MetricsServer, str]) -> None:
    """Names and labels are the documented ones; a reason without drops is present as 0."""
    status, text = get(server[1] + "/metrics")
    assert status == 200
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert (
        found.items()
        >= {
            ("vxland_frames_total", "decap"): 3,
            ("vxland_bytes_total", "decap"): 300,
            ("vxland_fast_path_frames_total", "decap"): 2,
            ("vxland_fast_path_bytes_total", "decap"): 200,
            ("vxland_drops_total", "decap", "too_short"): 2,
            ("vxland_drops_total", "decap", "own_mac"): 0,
            ("vxland_cpu_seconds_total", "used"): 7.5,
            ("vxland_cpu_seconds_total", "waited"): 0.5,
            ("vxland_leases",): 5,
            ("vxland_registry_readable",): 1,
            ("vxland_registry_quarantined",): 0,
            ("vxland_ready",): 1,
            ("vxland_event_loop_held_seconds",): 0.25,
            ("vxland_build_info", *BUILD): 1,
        }.items()
    )
    assert found["process_resident_memory_bytes",] > 1 << 20


def samples(sample: NodeSample, found: list[DeviceSample]) -> dict[tuple[str, ...], float]:
    """Return every sample of one scrape, by name and label values in the order of the labels' names."""
    with closing(open_metrics("127.0.0.1", 0, lambda: sample, lambda: found)) as server:
        _, text = get(f"http://127.0.0.1:{server.port}/metrics")
    return {
        (each.name, *(each.labels[name] for name in sorted(each.labels))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def device(peers: int = 0) -> DeviceSample:
    """Return a device with this many peers; each number is in the peer's address, MAC and traffic."""
    vteps = {Vtep(ip_address("192.168.0.0") + i, Mac(i)): PeerTraffic(i, 10 * i, 2 * i, 20 * i) for i in range(peers)}
    return DeviceSample(
        name="flannel.1",
        offloads={"tso": True, "uso": False},
        peers=vteps,
        sockets=[SocketQueue(100, 200, 3), SocketQueue(0, 200, 0)],
        underlay_mtu=1500,
        narrower=1,
        disbelieved=2,
        not_forwarded=1,
        tap_dropped=None,
        underlay_dropped=8,
        socket_full=2,
        bad_checksums=None,
        reconciling=Reconciling(5, 3, 1, {("replace_route", "netlink"): 7}, {"link_up": 2}, pending=4, requests=9),
    )


def test_devices_with_their_queues_and_actions() -> None:
    """A counter that the kernel does not have is missing, and not 0."""
    found = samples(SAMPLE, [device(1)])
    assert found["vxland_offload", "flannel.1", "tso"] == 1
    assert found["vxland_offload", "flannel.1", "uso"] == 0
    assert found["vxland_fast_path", "flannel.1"] == 0
    assert samples(SAMPLE, [replace(device(1), fast_path=True)])["vxland_fast_path", "flannel.1"] == 1
    assert found["vxland_underlay_mtu_bytes", "flannel.1"] == 1500
    assert found["vxland_narrow_paths", "flannel.1"] == 1
    assert found["vxland_not_forwarded", "flannel.1"] == 1
    assert found["vxland_disbelieved_paths", "flannel.1"] == 2
    assert found["vxland_socket_overflows_total", "flannel.1", "0"] == 3
    assert found["vxland_socket_queue_bytes", "flannel.1", "0"] == 100
    assert found["vxland_reconcile_actions_total", "netlink", "flannel.1", "replace_route"] == 7
    assert found["vxland_reconcile_errors_total", "flannel.1", "link_up"] == 2
    assert found["vxland_reconcile_pending", "flannel.1"] == 4
    assert found["vxland_reconcile_reads_total", "flannel.1"] == 3
    assert found["vxland_netlink_requests_total", "flannel.1"] == 9
    assert found["vxland_underlay_dropped_total", "flannel.1"] == 8
    assert found["vxland_socket_full_total", "flannel.1"] == 2
    assert not [key for key in found if key[0].startswith(("vxland_tap", "vxland_outer_checksum"))]


def test_peers_series_are_bounded() -> None:
    """The first 250 by address have separate series, the rest one; the sum is the total."""
    found = samples(SAMPLE, [device(1000)])
    frames = {
        key[3]: value for key, value in found.items() if key[:3] == ("vxland_peer_frames_total", "flannel.1", "encap")
    }
    assert len(frames) == MAX_PEERS + 1
    assert frames["192.168.0.249"] == 249
    assert sum(frames.values()) == sum(range(1000))
    assert found["vxland_peer_bytes_total", "flannel.1", "decap", "other"] == 20 * sum(range(250, 1000))
    assert found["vxland_vteps", "flannel.1"] == 1000


def test_a_vtep_that_changed_its_mac_is_one_peer() -> None:
    """Two VTEPs with one address share a series."""
    both = {Vtep(ip_address("192.168.0.1"), Mac(i)): PeerTraffic(1, 2, 3, 4) for i in (1, 2)}
    assert by_address(replace(device(), peers=both)) == {"192.168.0.1": PeerTraffic(2, 4, 6, 8)}


def probed(number: int, subnet: str, reach: Reach) -> tuple[Lease, Reach]:
    """Return the results of pings of a lease."""
    return Lease(ip_network(subnet), Vtep(ip_address("192.168.0.0") + number, Mac(number))), reach


def test_pings_by_peer() -> None:
    """A peer has the worse value of its two families, and none if it is unknown; states count all peers."""
    well = Reach("reachable", 1.0, smoothed_s=0.001, loss=0.0, full_mtu="passes")
    ill = Reach("reachable", 1.0, smoothed_s=0.003, loss=0.1, full_mtu="hole", cause=Cause("mtu_hole", "", ""))
    gone = Reach("unreachable", 1.0, loss=1.0, cause=Cause("silent", "", ""))
    found = dict(
        [
            probed(1, "10.0.1.0/24", well),
            probed(1, "fd00:1::/64", ill),
            probed(2, "10.0.2.0/24", gone),
            probed(3, "10.0.3.0/24", Reach()),
        ]
    )
    values = samples(SAMPLE, [replace(device(), probing=Probing("", found, {"answered": 7}))])
    expected = {
        ("vxland_peer_reachable", "flannel.1", "192.168.0.1"): 1,
        ("vxland_peer_rtt_seconds", "flannel.1", "192.168.0.1"): 0.003,
        ("vxland_peer_probe_loss_ratio", "flannel.1", "192.168.0.1"): 0.1,
        ("vxland_peer_full_mtu", "flannel.1", "192.168.0.1"): 0,
        ("vxland_peer_reachable", "flannel.1", "192.168.0.2"): 0,
        ("vxland_peer_probe_loss_ratio", "flannel.1", "192.168.0.2"): 1,
        ("vxland_peers", "flannel.1", "unknown"): 1,
        ("vxland_peers", "flannel.1", "reachable"): 2,
        ("vxland_peers", "flannel.1", "unreachable"): 1,
        ("vxland_peers_troubled", "mtu_hole", "flannel.1"): 1,
        ("vxland_peers_troubled", "silent", "flannel.1"): 1,
        ("vxland_probes_total", "flannel.1", "answered"): 7,
    }
    prefixes = ("vxland_peer_r", "vxland_peer_p", "vxland_peer_full", "vxland_peers", "vxland_probes")
    assert {key: value for key, value in values.items() if key[0].startswith(prefixes)} == expected | {
        ("vxland_peers_troubled", word, "flannel.1"): 0
        for word in get_args(CauseLabel)
        if word not in {"silent", "mtu_hole"}
    }
    off = samples(SAMPLE, [replace(device(), probing=Probing("probe.interval_s is 0"))])
    assert not [key for key in off if key[0].startswith("vxland_peers")]


def test_pings_of_many_peers_are_bounded() -> None:
    """MAX_PEERS VTEPs have series; the states count all."""
    well = Reach("reachable", 1.0, smoothed_s=0.001, loss=0.0, full_mtu="passes")
    found = dict(probed(n, f"10.{n >> 8}.{n & 255}.0/24", well) for n in range(1, 2 * MAX_PEERS))
    values = samples(SAMPLE, [replace(device(), probing=Probing("", found))])
    assert sum(key[0] == "vxland_peer_reachable" for key in values) == MAX_PEERS
    assert values["vxland_peers", "flannel.1", "reachable"] == 2 * MAX_PEERS - 1


def test_readiness_names_peers() -> None:
    """Lines about peers follow the verdict and do not change it."""
    sample = replace(SAMPLE, troubles=("no peer answers", "unreachable: x"))
    with closing(open_metrics("127.0.0.1", 0, lambda: sample)) as server:
        found = get(f"http://127.0.0.1:{server.port}/readyz")
    assert found == (200, "vxland is ready\nno peer answers\nunreachable: x\n")


def test_an_unreadable_registry_has_an_age() -> None:
    """The metric has the seconds since it became unreadable, and 0 while it is readable; the node is not ready."""
    away = NodeSample({}, 0, "x", RegistryHealth("connection refused", time.monotonic() - 100))
    found = samples(away, [])
    assert 100 <= found["vxland_registry_unreadable_seconds",] < 200
    assert found["vxland_ready",] == found["vxland_registry_readable",] == 0
    well = NodeSample({}, 0, "", RegistryHealth("", 5.0), firewall={"ipv4": (2, 1)})
    assert samples(well, [])["vxland_registry_unreadable_seconds",] == 0
    assert samples(well, [])["vxland_firewall_mended_total", "ipv4"] == 2
    assert samples(well, [])["vxland_firewall_failed_total", "ipv4"] == 1


def test_health(server: tuple[MetricsServer, str]) -> None:
    """/healthz answers while the data path does, /readyz once frames can move, any other path is 404."""
    assert get(server[1] + "/healthz") == (200, "vxland is running\n")
    assert get(server[1] + "/readyz") == (200, "vxland is ready\n")
    assert get(server[1] + "/secrets")[0] == 404


async def test_a_hung_data_path() -> None:
    """/healthz answered 200 while a worker no longer did; without systemd's watchdog nothing restarted the process."""
    now, answers, asked = 100.0, asyncio.Event(), asyncio.Event()

    async def alive() -> bool:
        asked.set()
        await answers.wait()
        return True

    reports = ManagerReports(str, alive, lambda _: None, lambda: now)
    with closing(open_metrics("127.0.0.1", 0, lambda: SAMPLE, hung=reports.hung)) as server:
        url = f"http://127.0.0.1:{server.port}/healthz"
        assert get(url)[0] == 200  # the node has not opened its devices yet
        reports.start()
        await asked.wait()
        now += HUNG_S
        assert get(url) == (200, "vxland is running\n")
        now += 1
        assert get(url) == (503, "the data path has not answered for 31 s\n")
        answers.set()
        while reports.hung():  # noqa: ASYNC110  (a task answers, and nothing announces that)
            await asyncio.sleep(0)
        assert get(url)[0] == 200
        await reports.stop()
        now += 2 * HUNG_S  # devices are left to a flanneld
        assert get(url)[0] == 200


def test_not_ready_says_why() -> None:
    """/readyz is 503 with the reason."""
    waiting = NodeSample({}, leases=0, not_ready="the device has not been set up yet")
    with closing(open_metrics("127.0.0.1", 0, lambda: waiting)) as server:
        assert get(f"http://127.0.0.1:{server.port}/readyz") == (503, "the device has not been set up yet\n")


def test_a_taken_port() -> None:
    """The error of the second server on a port names key, address and remedy."""
    with closing(open_metrics("127.0.0.1", 0, lambda: SAMPLE)) as server, pytest.raises(StartError) as raised:
        open_metrics("127.0.0.1", server.port, lambda: SAMPLE)
    assert str(raised.value).startswith(f"metrics.listen: 127.0.0.1:{server.port} cannot be bound")


def test_head_is_get_without_a_body(server: tuple[MetricsServer, str]) -> None:
    """`curl -I /metrics` got 405."""
    for path in ("/metrics", "/readyz", "/healthz", "/nothing"):
        host, port = server[1].removeprefix("http://").rsplit(":", 1)
        answers = []
        for method in ("HEAD", "GET"):
            with closing(HTTPConnection(host.strip("[]"), int(port), timeout=30)) as asked:
                asked.request(method, path)
                answer = asked.getresponse()
                answers.append((answer.status, answer.getheader("Content-Type"), answer.read()))
                length = answer.getheader("Content-Length")
            if method == "HEAD":
                announced = int(length or 0)
        head, full = answers
        assert head == (*full[:2], b"")
        # The metrics of the process change between two requests, by a few digits.
        assert announced == len(full[2]) or (path == "/metrics" and announced > len(full[2]) // 2)
    with closing(HTTPConnection(host.strip("[]"), int(port), timeout=30)) as asked:
        asked.request("POST", "/readyz", b"x")
        assert asked.getresponse().status == 405


def serving() -> list[threading.Thread]:
    """Return the threads that serve a connection, the oldest first."""
    return [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]


@pytest.mark.parametrize("said", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 5000, b"\0\xff" * 100])
def test_clients_that_dawdle_cost_a_bounded_number_of_threads(said: bytes) -> None:
    """3,000 slow connections took 2,010 threads and descriptors, and no scrape got through."""
    with closing(open_metrics("127.0.0.1", 0, lambda: SAMPLE)) as server, ExitStack() as stack:
        for _ in range(4 * MAX_CLIENTS):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            slow.sendall(said)
            for replaced in serving()[:-MAX_CLIENTS]:  # the oldest: they end, which may take a moment
                replaced.join(PATIENCE_S)
            assert len(serving()) <= MAX_CLIENTS
        assert get(f"http://127.0.0.1:{server.port}/healthz") == (200, "vxland is running\n")
        assert get(f"http://127.0.0.1:{server.port}/metrics")[0] == 200
