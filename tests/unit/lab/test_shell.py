"""Requirements of the demo at start, and the messages of failed commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from vxland.lab import namespaces, shell
from vxland.lab.demo.runner import DemoPlan
from vxland.model.errors import StartError


@pytest.fixture(autouse=True)
def _everything_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which the demo can start, without using the real one."""
    tun = tmp_path / "tun"
    tun.touch()
    monkeypatch.setattr(shell, "TUN", tun)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")


def test_nothing_is_missing() -> None:
    """Root, the programs and the TAP driver are sufficient."""
    shell.require(("vxland", "kernel"))


def test_root_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has a remedy."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StartError, match=r"root.*sudo"):
        shell.require(("vxland", "vxland"))


@pytest.mark.parametrize(("program", "package"), [("ip", "iproute2"), ("ping", "iputils-ping"), ("iperf3", "iperf3")])
def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    """The remedy can be pasted into a shell."""
    monkeypatch.setattr("shutil.which", lambda name: None if name == program else name)
    with pytest.raises(StartError, match=f"runs {program}, .* apt-get install {package}$"):
        shell.require(("vxland", "vxland"))


def test_what_a_plan_needs_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Etcd and the CNI plugins are required only if they are used."""
    monkeypatch.setattr("shutil.which", lambda name: None if name in {"etcd", "/usr/lib/cni/portmap"} else name)
    shell.require(("vxland", "vxland"), more=DemoPlan(("vxland", "vxland")).packages)
    with pytest.raises(
        StartError,
        match=r"runs etcd, .* apt-get install etcd-server; then systemctl disable --now etcd, which it starts$",
    ):
        shell.require(("vxland", "vxland"), more=DemoPlan(("vxland", "vxland"), registry="etcd").packages)
    with pytest.raises(StartError, match=r"runs /usr/lib/cni/portmap, .* apt-get install containernetworking-plugins$"):
        shell.require(("vxland", "vxland"), more=DemoPlan(("vxland", "vxland"), cni=True).packages)


def test_vxland_needs_the_tap_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel's vxlan device does not need it."""
    monkeypatch.setattr(shell, "TUN", tmp_path / "missing")
    with pytest.raises(StartError, match="modprobe tun"):
        shell.require(("vxland", "kernel"))
    shell.require(("kernel", "kernel"))


def test_a_failed_command_is_named_with_its_error() -> None:
    """The error has the command and its output."""
    with pytest.raises(StartError, match=r"`sh -c echo no >&2; exit 3` failed: no; "):
        shell.run("sh", "-c", "echo no >&2; exit 3")


def test_a_stuck_command_ends() -> None:
    """A command that hangs does not hang the demo."""
    with pytest.raises(StartError, match="did not end"):
        shell.attempt(("sleep", "60"), timeout_s=0.05)


def test_entering_a_namespace_that_is_not_there_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job does not run outside instead."""
    monkeypatch.setattr(shell, "NETNS_DIR", tmp_path)
    done = []
    with pytest.raises(FileNotFoundError):
        shell.inside("missing", lambda: done.append(1))
    (tmp_path / "no-namespace").touch()
    with pytest.raises(OSError, match="setns refused"):
        shell.inside("no-namespace", lambda: done.append(1))
    assert done == []


def test_what_remains_is_found_by_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces and directories of one demo, and of no other."""
    monkeypatch.setattr(shell, "NETNS_DIR", tmp_path / "netns")
    monkeypatch.setattr(namespaces, "RUN_DIR", tmp_path)
    for name in ("netns/vxdemo-12-node1", "netns/vxdemo-123-node1", "vxdemo-12", "netns/other", "netns/vxdemo-12x"):
        (tmp_path / name).mkdir(parents=True)
    assert namespaces.remains(12) == [str(tmp_path / "netns/vxdemo-12-node1"), str(tmp_path / "vxdemo-12")]
