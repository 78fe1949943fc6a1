"""More load than vxland can process: a good flow continues, vxlandctl is answered, memory and log stay bounded.

pod a - cni0 - flannel.1 (vxland, one worker) ===== flannel.1 (kernel vxlan) - cni0 - pod b   (lab.py has the addresses)
                                              ===== at node b's e0: two unknown senders, and a misbehaving b

Each of the three senders is a process that sends as fast as it can, from before each test until after it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from vxland.inspect.reasons import QUEUES
from vxland.lab import shell

from .asking import METRICS, ask_json, page
from .conftest import running
from .daemon import ROOT
from .lab import PORT, Lab
from .manager import Manager
from .ns import wait_until
from .traffic import ping, send_tcp
from .wire import vxlan_header

pytestmark = pytest.mark.netns

UNKNOWN_SENDERS = ("192.168.111.131", "192.168.111.132")
MANY = 5_000  # datagrams of the flood that are read and dropped before a test starts
STREAM_S = 180.0  # timeout of a stream; one that loses much waits longer each time
LINES = 200  # of the log; some thirty are there earlier
GROWTH_KIB = 16 << 10
CHANGES = 3
ANSWERS = 5  # after each change
BEATS = 5  # of the watchdog, which wants one every 0.15 s
MOST_AT_ONCE = 100_000  # datagrams while vxlandctl starts, asks and prints; one takes 5 to 10 us of a CPU
NOBODY, MAC_OF_NOBODY = "192.168.111.140", "02:00:00:00:00:40"
FLOOD = """
import contextlib, socket, sys
source, target, port, start = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((source, 0))
    sock.connect((target, int(port)))
    print("sending", flush=True)
    datagram = bytes.fromhex(start) + bytes(500)
    while True:
        with contextlib.suppress(OSError):
            while True:
                sock.send(datagram)
"""


@pytest.fixture(scope="module", params=["compiled", "interpreted", "fast-path"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """One worker, so that every datagram goes through one socket and one thread."""
    made = Lab(tmp_path_factory.mktemp("overload"), request.param)
    made.vxland.settings["datapath"] |= {"workers": 1}
    made.vxland.settings["metrics"]["listen"] = METRICS
    made.vxland.manager = manager = Manager(made.vxland.directory, watchdog_s=0.3)
    try:
        yield from running(made)
    finally:
        manager.close()


@pytest.fixture
def flood(lab: Lab) -> Iterator[None]:
    """Three senders of garbage, whose datagrams have reached vxland."""
    senders: list[subprocess.Popen[str]] = []
    for address in UNKNOWN_SENDERS:
        lab.b.ns.ip(f"addr replace {address}/24 dev e0")
    before = dropped(lab)
    try:
        for address in (*UNKNOWN_SENDERS, lab.b.vtep):
            start = bytes(8) if address == lab.b.vtep else vxlan_header()
            words = (address, lab.a.vtep, str(PORT), start.hex())
            command = shell.exec_in(lab.b.ns.name, sys.executable, "-c", FLOOD, *words)
            senders.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        for sender in senders:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "sending\n"
        for reason in ("unknown_vtep", "i_flag_clear"):
            goal = before[reason] + MANY
            wait_until(partial(over, lab, reason, goal), f"{MANY} drops: {reason}")
        yield
    finally:
        for sender in senders:
            sender.kill()
            sender.communicate()


def dropped(lab: Lab) -> dict[str, int]:
    """Return the datagrams dropped since vxland was started, by reason."""
    found: dict[str, int] = ask_json(lab.vxland, "stats")["decap"]["drops"]
    return found


def passed_on(lab: Lab) -> int:
    """Return the datagrams that the data path has read, however it decided."""
    found = ask_json(lab.vxland, "stats")["decap"]
    frames: int = found["frames"]
    return frames + sum(count for reason, count in dropped(lab).items() if reason not in QUEUES)


def over(lab: Lab, reason: str, goal: int) -> bool:
    """Return whether more than `goal` were dropped for this reason."""
    return dropped(lab)[reason] > goal


def memory_kib(lab: Lab, field: str) -> int:
    """Return the resident memory now (VmRSS), or its peak (VmHWM)."""
    status = Path(f"/proc/{lab.vxland.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])


def metric(lab: Lab, name: str) -> int:
    """Return the sum of a metric over its labels."""
    samples = re.findall(rf"^{name}\{{.*\}} (\S+)$", page(lab, "/metrics"), re.MULTILINE)
    return sum(int(float(value)) for value in samples)


def lost_by_the_kernel(lab: Lab) -> int:
    """Return the drops in /proc/net/udp: the last column of the sockets on the VXLAN port."""
    lines = lab.a.ns.run("cat", "/proc/net/udp").splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines if line.split()[1].endswith(f":{PORT:04X}"))


def test_under_a_flood(lab: Lab, flood: None) -> None:  # noqa: ARG001  (it lasts during the test)
    """A stream arrives whole both ways (compiled); vxlandctl, reload and reconciler work; nothing grows."""
    Path(f"/proc/{lab.vxland.pid}/clear_refs").write_text("5")  # the peak counts from now on, without the start's
    before = memory_kib(lab, "VmRSS")
    if lab.vxland.gear == "compiled":  # the other gear reads too few packets for a stream
        for near, far in ((lab.a, lab.b), (lab.b, lab.a)):
            send_tcp(near.pod_ns, far.pod_ns, far.pod[4], 1 << 18, STREAM_S)
    assert ask_json(lab.vxland, "status")["planes"][0]["device"] == "flannel.1"
    lab.vxland.hang_up("reloaded")
    lab.a.ns.ip(f"route del {lab.b.subnet[4]}")
    lab.vxland.wait_for_peers()
    assert memory_kib(lab, "VmHWM") < before + GROWTH_KIB
    wait_until(lambda: lab.vxland.events("frames_dropped"), "the log reports the drops")
    assert len(lab.vxland.said().splitlines()) < LINES


def test_the_control_plane_has_its_turn(lab: Lab, flood: None) -> None:  # noqa: ARG001  (it lasts during the test)
    """With every CPU in use, answers, watchdog and changes of leases do not wait behind the data path.

    The event loop of a busy node was 1.5 s late. It is judged by what the data path does meanwhile, not by the clock.
    """
    manager = lab.vxland.manager
    assert isinstance(manager, Manager)
    beats, passed = manager.count("WATCHDOG"), [passed_on(lab)]
    for number in range(CHANGES):
        lab.vxland.peers.append({"subnet": [f"10.244.{100 + number}.0/24"], "vtep": NOBODY, "mac": MAC_OF_NOBODY})
        try:
            lab.vxland.reload()  # returns when the kernel has route and neighbour
        finally:
            lab.vxland.peers.pop()
        passed += [passed_on(lab) for _ in range(ANSWERS)]
    lab.vxland.reload()
    assert len(lab.vxland.events("leases_changed")) > CHANGES
    meanwhile = [after - before for before, after in pairwise(passed)]
    assert sum(meanwhile) > MANY
    assert median(meanwhile) < MOST_AT_ONCE
    wait_until(lambda: manager.count("WATCHDOG") >= beats + BEATS, "the watchdog is fed")


@pytest.mark.parametrize("lab", ["compiled"], indirect=True, scope="module")
def test_drops_at_a_full_queue(lab: Lab, flood: None) -> None:  # noqa: ARG001  (it lasts during the test)
    """While vxland is stopped, its queue fills up and then drops; the metrics have the kernel's number."""
    lab.vxland.send_signal(signal.SIGSTOP)
    try:
        full = lost_by_the_kernel(lab)
        wait_until(lambda: lost_by_the_kernel(lab) > full, "the queue runs over")
        least = lost_by_the_kernel(lab)
    finally:
        lab.vxland.send_signal(signal.SIGCONT)
    found = wait_until(lambda: metric(lab, "vxland_socket_overflows_total"), "the metrics are served again")
    assert least <= found <= lost_by_the_kernel(lab)
    assert found <= dropped(lab)["socket_queue_full"] <= lost_by_the_kernel(lab)


def test_recovery(lab: Lab) -> None:
    """Once the socket's queue is empty, the flood has no effect: no ping is lost."""
    wait_until(lambda: metric(lab, "vxland_socket_queue_bytes") == 0, "the queue is empty")
    ping(lab.a.pod_ns, lab.b.pod[4])
    ping(lab.b.pod_ns, lab.a.pod[4])
