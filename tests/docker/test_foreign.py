"""The image for ARM, 64 and 32 bits: built by docker-bake.hcl, and run under qemu.

Compilers are cross compilers, and pip is this machine's. So apt and the commands of the tests are all that qemu runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docker.conftest import SCRATCH
from tests.docker.engine import BUILD_S, cgroups, wait_until
from tests.docker.foreign import DEBIAN, TABLE, ForeignMachine, base_image
from tests.docker.images import BASE, SUITE, client_plugins, debian
from tests.docker.machine import CLIENT, PACKAGES
from tests.docker.test_containers import MAX_COMPRESSED, report
from tests.installed import ROOT
from tests.removal import removing
from tools.release import IMAGE
from vxland import __version__

COMMIT = "0123456789abcdef"
STEP = re.compile(r"#\d+ (?:[\d.]+ )?((?:\[(?!internal)|Setting up (?:python|ca-)).*)")
"""Lines of a build that show how far it is."""

MACHINE = {"linux/arm64": ("aarch64", 183), "linux/arm/v7": ("armv7l", 40)}
"""The kernel's name of each processor, and its number in ELF files."""

GOOD = "overlay: {network: 10.244.0.0/16, subnet: 10.244.0.0/24}\nregistry: {peers: []}\n"
LOOK = """
import importlib.util, os, pathlib, shutil
from vxland.forwarding import pump
files = [path.read_bytes() for path in pathlib.Path("/opt/vxland").rglob("*.so")]
processors = {int.from_bytes(file[18:20], "little") for file in files}
tools = [name for name in ("gcc", "cc", "ld", "make", "strip", "pip") if shutil.which(name)]
modules = [name for name in ("Cython.Compiler", "pip", "setuptools") if importlib.util.find_spec(name)]
print(os.uname().machine, pump.COMPILED, len(files) > 30, processors, tools, modules)
"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the engine of a machine."""

    machine: ForeignMachine
    platform: str
    name: str

    def attempt(self, *argv: str, entrypoint: str = "vxland") -> subprocess.CompletedProcess[str]:
        """Run a command in a container without network and checks of health, and return its result."""
        options = ("--rm", "--no-healthcheck", "--network", "none", "--platform", self.platform)
        folder = ("-v", "/srv/etc:/etc/vxland:ro", "--entrypoint", entrypoint)
        return docker(self.machine, "run", *options, *folder, self.name, *argv)


@pytest.fixture(scope="module")
def machine() -> Iterator[ForeignMachine]:
    """A machine whose engine runs programs of ARM, with the base image for each platform."""
    if os.uname().machine != "x86_64":
        pytest.skip("64-bit ARM is the foreign architecture for amd64 only")
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        pytest.skip("before Linux 6.7 a user namespace has no table of foreign programs of its own")
    root = debian(SCRATCH, "docker", SUITE, (*PACKAGES, CLIENT))
    found = ForeignMachine(f"vxarm-{os.getpid()}", root, SCRATCH / "data-foreign")
    with removing(found.stop):
        found.start()
        if docker(found, "image", "inspect", BASE).returncode != 0:
            done = docker(found, "load", "--input", str(base_image(found, SCRATCH)))
            assert done.returncode == 0, done.stderr
        yield found


def client(machine: ForeignMachine) -> dict[str, str]:
    """Variables with which this machine's client of Docker, with buildx, reaches the engine of that one."""
    config = SCRATCH / "config"
    config.mkdir(exist_ok=True)
    if not (config / "cli-plugins").exists():
        (config / "cli-plugins").symlink_to(client_plugins(SCRATCH))
    return {**os.environ, **machine.client, "DOCKER_CONFIG": str(config)}


def docker(machine: ForeignMachine, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the client and return its result."""
    return subprocess.run(
        ("docker", *argv), env=client(machine), capture_output=True, text=True, check=False, timeout=BUILD_S
    )


@pytest.fixture(scope="module", params=DEBIAN, ids=list(DEBIAN.values()))
def image(machine: ForeignMachine, request: pytest.FixtureRequest) -> Image:
    """The image of this checkout for one platform, built as a release is; each step is printed."""
    platform = request.param
    version = f"{__version__}-{DEBIAN[platform]}"
    command = ("docker", "buildx", "bake", "--progress", "plain", "--file", "docker-bake.hcl")
    settings = {"VERSION": version, "COMMIT": COMMIT, "SOURCE_DATE_EPOCH": "1700000000"}
    with subprocess.Popen(
        (*command, "--set", f"node.platform={platform}", "node"),
        env=client(machine) | settings,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as build:
        assert build.stdout is not None
        end: deque[str] = deque(maxlen=60)
        shown: set[str] = set()
        for line in build.stdout:
            end.append(line)
            if (found := STEP.match(line)) and (step := found[1]) not in shown:
                shown.add(step)
                print(f"  {step[:100].rstrip()}", flush=True)  # noqa: T201  (otherwise minutes without output)
    assert build.returncode == 0, "".join(end)
    return Image(machine, platform, f"{IMAGE}:{version}")


def test_nothing_is_registered_here(machine: ForeignMachine) -> None:
    """The table is the machine's own; this one's, if it has any, knows nothing of it."""
    for name in ("aarch64", "arm"):
        assert f"qemu-{name}-static" in machine.run("cat", str(TABLE / f"vxland-{name}"))
        assert not (TABLE / f"vxland-{name}").exists()


def test_the_compiled_gear(image: Image) -> None:
    """Programs and each library are of the processor; the commit is shown; nothing there compiles or installs."""
    shown = image.attempt("--version")
    assert shown.stdout == f"vxland, version {__version__}, commit {COMMIT[:12]}\n", shown.stderr
    name, number = MACHINE[image.platform]
    loaded = image.attempt("-P", "-c", LOOK, entrypoint="python")
    assert loaded.stdout == f"{name} True True {{{number}}} [] []\n", loaded.stderr


def test_size(image: Image) -> None:
    """As small as that for amd64, in a registry."""
    pipe = f"docker save {image.name} | gzip | wc -c"
    done = subprocess.run(("sh", "-c", pipe), env=client(image.machine), capture_output=True, check=True)
    report(f"{image.name}: {int(done.stdout) / 1e6:.0f} MB in a registry")
    assert 40_000_000 < int(done.stdout) < MAX_COMPRESSED


def test_check(image: Image) -> None:
    """`vxland check` reads a file, and refuses another with its reason: exit codes 0 and 2."""
    folder = image.machine.root / "srv" / "etc"
    for text, code, line in (
        (GOOD, 0, "/etc/vxland/vxland.yaml: good"),
        (
            GOOD.replace("network", "netwrok"),
            2,
            "overlay.netwrok: '10.244.0.0/16': write network: this key is not known",
        ),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "vxland.yaml").write_text(text)
        done = image.attempt("check")
        assert (done.returncode, done.stdout.splitlines()[:1]) == (code, [line]), done.stderr


def test_a_machine_that_is_stopped_leaves_nothing(machine: ForeignMachine) -> None:
    """Control groups of a build that ran when its engine was killed stayed, because its processes had not ended yet."""
    stdin = subprocess.PIPE
    with subprocess.Popen(
        ("docker", "build", "-"), env=client(machine), stdin=stdin, stderr=subprocess.DEVNULL
    ) as build:
        assert build.stdin is not None
        build.stdin.write(f"FROM {BASE}\nRUN echo {os.getpid()} && sleep 10000\n".encode())
        build.stdin.close()
        wait_until(lambda: _processes(machine.name), "the build runs")
        machine.stop()
    assert cgroups(machine.name) == []
    assert not Path("/run", machine.name).exists()


def _processes(name: str) -> str:
    """Return the processes in the control groups of an engine."""
    return "".join(path.read_text() for group in cgroups(name) for path in group.rglob("cgroup.procs"))
