"""docs/containers.md on fresh machines with Debian's own Docker, without a compiler: from the image to two nodes.

node 1, Debian 12   flannel.1 10.244.0.0 = e0 192.168.111.128 ===== .129 e0 = flannel.1 10.244.1.0   node 2, Debian 13
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docker.conftest import SCRATCH
from tests.docker.engine import Engine, wait_until
from tests.docker.images import NODE, debian
from tests.docker.machine import CLIENT, PACKAGES, Machine
from tests.installed import ROOT
from tests.removal import removing
from tests.systemd.node import MAC
from tools.release import IMAGE
from vxland import __version__
from vxland.lab import shell

RELEASED = f"{IMAGE}:{__version__}"
ARCHIVE = "vxland-image.tar.gz"
BPF = "--cap-add BPF "
"""The option that the page leaves out for a Docker that does not know it."""


@dataclass(frozen=True, slots=True)
class Page:
    """The blocks of the page, in order."""

    install: str
    first: str
    second: str
    start: str
    look: str
    remove: str


def page() -> Page:
    """Return the section of docs/containers.md that leads to two nodes."""
    text = (ROOT / "docs" / "containers.md").read_text()
    section = text.partition("\n## Two nodes from the image\n")[2].partition("\n## ")[0]
    blocks = [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?:    .*\n)+", section)]
    assert f"leave out `{BPF.strip()}`" in " ".join(section.split())
    return Page(*blocks)


@pytest.fixture(scope="module")
def archive(built: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of this checkout in a file, under the name of a release."""
    built.run("tag", NODE, RELEASED)
    path = tmp_path_factory.mktemp("image") / ARCHIVE
    save = f"docker save {RELEASED} | gzip -1 >{path}"
    subprocess.run(("bash", "-o", "pipefail", "-c", save), env=built.env, check=True)
    return path


@pytest.fixture(scope="module")
def machines(archive: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines after the commands of the page, in order."""
    pair = [
        Machine(
            f"vxpage-{os.getpid()}-{suite}",
            debian(SCRATCH, "docker", suite, (*PACKAGES, *clients)),
            SCRATCH / f"data-{suite}",
        )
        for suite, clients in (("bookworm", ()), ("trixie", (CLIENT,)))
    ]
    with removing(*(machine.stop for machine in pair)):
        for machine in pair:
            machine.start()
        first, second = (machine.name for machine in pair)
        shell.run("ip", "-n", first, "link", "add", "e0", "type", "veth", "peer", "e0", "netns", second)
        for number, machine in enumerate(pair):
            address = f"192.168.111.{128 + number}/24"
            shell.ip_batch(machine.name, (f"addr add {address} dev e0", "link set e0 up"))
            install_by_the_page(machine, number, archive)
        yield pair[0], pair[1]


def install_by_the_page(machine: Machine, number: int, archive: Path) -> None:
    """Do what the page says, on one machine."""
    blocks = page()
    assert MAC[0] in blocks.first
    assert machine.attempt("sh", "-c", "command -v cc gcc clang").stdout == ""
    (machine.root / "root" / ARCHIVE).write_bytes(archive.read_bytes())
    machine.run("sh", "-euc", f"cd /root\n{blocks.install}")
    (machine.root / "etc" / "vxland").mkdir(exist_ok=True)
    (machine.root / "etc" / "vxland" / "vxland.yaml").write_text(blocks.second if number else blocks.first)
    machine.run("sh", "-euc", command(machine, blocks.start))


def knows_bpf(machine: Machine) -> bool:
    """Return whether the machine's Docker can grant CAP_BPF."""
    return int(machine.run("docker", "version", "--format", "{{.Server.Version}}").partition(".")[0]) >= 23


def command(machine: Machine, block: str) -> str:
    """Return a command of the page as the page wants it for the machine's Docker."""
    assert BPF in block
    return block if knows_bpf(machine) else block.replace(BPF, "")


def test_two_nodes_by_the_page(machines: tuple[Machine, Machine]) -> None:
    """Pings pass in both directions, of the image that was loaded; where BPF is granted the fast path is on."""
    for machine, peer in zip(machines, ("10.244.1.0", "10.244.0.0"), strict=True):

        def ready(machine: Machine = machine) -> bool:
            return machine.attempt("docker", "exec", "vxland", "vxlandctl", "status", "--ready").returncode == 0

        def log(machine: Machine = machine) -> str:
            return machine.attempt("docker", "logs", "vxland").stderr

        wait_until(ready, f"{machine.name} is ready", log)
        machine.run("sh", "-euc", page().look.replace("10.244.1.0", peer))
        asked = machine.run("docker", "exec", "vxland", "vxlandctl", "status", "--json")
        assert json.loads(asked)["planes"][0]["fast_path"]["on"] is knows_bpf(machine)
        assert machine.run("docker", "inspect", "--format", "{{.Config.Image}}", "vxland").strip() == RELEASED


def test_healthy_and_removed(machines: tuple[Machine, Machine]) -> None:
    """Docker finds both healthy; a stop leaves the device, and the page's command for a removal leaves nothing."""
    for machine in machines:

        def state(machine: Machine = machine) -> str:
            return machine.run("docker", "inspect", "--format", "{{.State.Health.Status}}", "vxland").strip()

        wait_until(lambda: state() == "healthy", f"{machine.name} is healthy", state)
        machine.run("docker", "stop", "vxland")
        machine.run("ip", "link", "show", "flannel.1")
        machine.run("sh", "-euc", command(machine, page().remove))
        assert machine.attempt("ip", "link", "show", "flannel.1").returncode != 0
