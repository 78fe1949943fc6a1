"""Life of the fast path: its programs outlive the daemon, are replaced without a gap, and go when they should.

node a: vxland, fast path                      node b: the kernel's vxlan, or vxland
pod a - cni0 - flannel.1 - e0 ===== e0 - flannel.1 - cni0 - pod b               (lab.py has the addresses)
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.pinging import Pinging

from .asking import ask_json
from .conftest import running
from .daemon import ROOT
from .lab import FAMILIES, KernelVtep, Kind, Lab, Vxland
from .ns import Ns, wait_until
from .traffic import flowing, ping
from .wires import Wire

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("_able")]

INTERVAL_S = 0.01
LABS: list[tuple[Kind, Wire]] = [("kernel", "veth"), ("kernel", "mtu-sized"), ("compiled", "veth")]
ENDS = [signal.SIGTERM, signal.SIGKILL]


@pytest.fixture(scope="module", params=LABS, ids="-".join)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Either neighbour and wire."""
    other, wire = request.param
    made = Lab(tmp_path_factory.mktemp("life"), "compiled", other).with_fast_path()
    made.wire = wire
    yield from running(made)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Lab]:
    """A lab for one test, with a kernel neighbour."""
    yield from running(Lab(tmp_path, "compiled").with_fast_path())


def carries(lab: Lab) -> bool:
    """Return whether programs carry three pings both ways: at first, the daemon does."""
    before = ask_json(lab.vxland, "stats")["fast_path"]
    lab.a.pod_ns.run("ping", "-q", "-c", "3", "-i", "0.2", lab.b.pod[4])
    after = ask_json(lab.vxland, "stats")["fast_path"]
    return all(after[way]["frames"] >= before[way]["frames"] + 3 for way in ("encap", "decap"))


@contextmanager
def nothing_lost(lab: Lab, directory: Path) -> Iterator[list[Pinging]]:
    """Pings of both families between the pods both ways during the body, each of which has a reply."""
    with ExitStack() as stack:
        pings = [
            stack.enter_context(
                Pinging(near.pod_ns.name, far.pod[family], directory / f"ping-{near.letter}{family}", INTERVAL_S)
            )
            for near, far in ((lab.a, lab.b), (lab.b, lab.a))
            for family in FAMILIES
        ]
        yield pings
        for each in pings:
            each.wait(20)
    assert [each.lost() for each in pings] == [[]] * len(pings)


def programs(ns: Ns) -> dict[str, int]:
    """Return the programs on each device of a namespace, without devices that have none."""
    found = {}
    for device in ns.links():
        shown = [ns.attempt("tc", "filter", "show", "dev", device, point).stdout for point in ("ingress", "egress")]
        found[device] = "".join(shown).count("direct-action")
    return {device: count for device, count in found.items() if count}


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
@pytest.mark.parametrize("back", [False, True], ids=["from-a", "to-a"])
def test_a_daemon_that_ends(lab: Lab, tmp_path: Path, number: signal.Signals, back: bool) -> None:
    """Everything was lost until the next one had started. Now no ping is, and a TCP stream goes on meanwhile."""
    wait_until(lambda: carries(lab), "programs carry pings", lab.vxland.said)
    with nothing_lost(lab, tmp_path) as pings, flowing(lab, back=back) as flow:
        lab.vxland.stop(number)
        flow.pass_on()
        pings[0].wait(100)
        flow.pass_on()
        lab.vxland.start()
        flow.pass_on()


def test_a_daemon_that_hangs(lab: Lab, tmp_path: Path) -> None:
    """SIGSTOP for more than a second, as by a debugger or a full disk, and SIGCONT."""
    wait_until(lambda: carries(lab), "programs carry pings", lab.vxland.said)
    with nothing_lost(lab, tmp_path) as pings, flowing(lab) as flow, flowing(lab, back=True) as other:
        lab.vxland.send_signal(signal.SIGSTOP)
        try:
            pings[0].wait(150)
            flow.pass_on()
            other.pass_on()
        finally:
            lab.vxland.send_signal(signal.SIGCONT)
        pings[0].wait(50)
        flow.pass_on()
        other.pass_on()


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_a_build_with_other_maps(kernel: Lab, tmp_path: Path) -> None:
    """An upgrade whose programs have maps of other sizes, and the downgrade."""
    lab = kernel
    upgraded = variant(tmp_path)
    wait_until(lambda: carries(lab), "programs carry pings", lab.vxland.said)
    with nothing_lost(lab, tmp_path), flowing(lab, back=True) as flow:
        for words in (with_object(upgraded), lab.vxland.program):
            lab.vxland.program = words
            lab.vxland.stop()
            flow.pass_on()
            lab.vxland.start()
            flow.pass_on()
    assert programs(lab.a.ns) == {"flannel.1": 1, "e0": 1}


def variant(directory: Path) -> Path:
    """Compile the programs with maps of other sizes."""
    source = (ROOT / "vxland/fastpath/programs.c").read_text()
    changed = source.replace("#define PEERS 16384", "#define PEERS 20000").replace("SUBNETS 32768", "SUBNETS 40000")
    assert len(changed) == len(source)
    (directory / "variant.c").write_text(changed)
    machine = subprocess.run(("gcc", "-print-multiarch"), check=True, capture_output=True, text=True).stdout.strip()
    made = directory / "variant.o"
    flags = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I/usr/include/{machine}", '-DSOURCE="variant"')
    subprocess.run(("clang", *flags, "-c", str(directory / "variant.c"), "-o", str(made)), check=True)
    return made


def with_object(path: Path) -> tuple[str, ...]:
    """Return the words for Python that run vxland with these programs."""
    return (
        "-c",
        f"from pathlib import Path; from vxland.fastpath import programs; programs.OBJECT = Path({str(path)!r}); "  # noqa: ISC004
        "from vxland.cli.main import main; main()",
    )


def test_programs_let_go_without_a_daemon(kernel: Lab) -> None:
    """A lease may have ended since: after fast_path_unattended_s they carry nothing, until there is a daemon."""
    lab = kernel
    lab.vxland.stop()
    lab.vxland.settings["datapath"]["fast_path_unattended_s"] = 1
    lab.vxland.start()
    lab.vxland.stop(signal.SIGKILL)
    assert answers(lab)
    wait_until(lambda: not answers(lab), "a ping that nobody carries")
    lab.vxland.start()
    ping(lab.a.pod_ns, lab.b.pod[4])


def answers(lab: Lab) -> bool:
    """Return whether pod b answers one ping of pod a."""
    return lab.a.pod_ns.attempt("ping", "-c", "1", "-W", "0.3", lab.b.pod[4]).returncode == 0


def test_cleanup(kernel: Lab) -> None:
    """It removes the programs of a daemon that was stopped, and is not needed for anything to stay as it was."""
    lab = kernel
    assert programs(lab.a.ns) == {"flannel.1": 1, "e0": 1}
    lab.vxland.stop()
    assert programs(lab.a.ns) == {"flannel.1": 1, "e0": 1}
    subprocess.run(lab.vxland.command("--cleanup"), cwd=ROOT, check=True)
    assert programs(lab.a.ns) == {}


def test_a_kernel_device_in_place_of_a_deleted_tap(kernel: Lab) -> None:
    """The programs on the underlay stay, and let its datagrams pass: flannel's own device works at once."""
    lab = kernel
    mac = lab.a.mac()
    lab.vxland.stop()
    lab.a.ns.ip("link delete flannel.1")
    assert programs(lab.a.ns) == {"e0": 1}
    device = KernelVtep(lab.a)
    device.create(mac)
    device.add_peer(lab.b, lab.b.mac())
    for family in FAMILIES:
        ping(lab.a.pod_ns, lab.b.pod[family])
        ping(lab.b.pod_ns, lab.a.pod[family])


def test_the_shipped_configuration_has_it_on(lone: Vxland) -> None:
    """configs/vxland.yaml had it off. Only paths and the interface's name differ here."""
    shipped = yaml.safe_load((ROOT / "configs" / "vxland.yaml").read_text())
    assert shipped["underlay"]["address"] == lone.node.vtep
    shipped["underlay"]["interface"] = lone.node.way
    lone.settings = shipped | {name: lone.settings[name] for name in ("control", "metrics")}
    lone.launch()
    lone.wait_for("fast_path_on")
    assert programs(lone.node.ns) == {"flannel.1": 1, "e0": 1}


@pytest.mark.parametrize("change", ["vni", "port", "device", "underlay", "off"])
def test_a_change_of_settings_leaves_no_program_behind(lone: Vxland, change: str) -> None:
    """Those of the former device or interface would carry by the former settings for an hour."""
    ns = lone.node.ns
    ns.batch("link add e1 type veth peer name e2", "link set e1 up", "link set e2 up", "addr add 192.0.2.1/24 dev e1")
    lone.settings["datapath"]["fast_path"] = "auto"
    lone.start()
    assert programs(ns) == {"flannel.1": 1, "e0": 1}
    lone.stop()
    device, interface = "flannel.1", "e0"
    match change:
        case "vni":
            lone.settings["overlay"]["vni"], device = 5, "flannel.5"
        case "port":
            lone.settings["overlay"]["port"] = 8473
        case "device":
            lone.settings["overlay"]["device"] = device = "other"
        case "underlay":
            lone.settings["underlay"]["address"], interface = "192.0.2.1", "e1"
        case "off":
            lone.settings["datapath"]["fast_path"] = "off"
    lone.start()
    wanted = {} if change == "off" else {device: 1, interface: 1}
    wait_until(lambda: programs(ns) == wanted, str(wanted), lambda: f"{programs(ns)}\n{lone.said()}")
