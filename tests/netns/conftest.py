"""Namespaces for tests against a real kernel: uniquely named, always deleted at the end."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.firewall import Backend
from tests.netns.namespace import Netns
from vxland.lab import shell

PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "ping": "iputils-ping",
    "ethtool": "ethtool",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "nft": "nftables",
}

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def _able() -> None:
    """Skip, with the reason, if namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not shell.TUN.exists():
        pytest.skip(f"there is no {shell.TUN}")
    lacking = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if lacking:
        pytest.skip(f"apt-get install {' '.join(sorted(lacking))}")


@pytest.fixture
def netns(_able: None) -> Iterator[Callable[[], Netns]]:
    """Return a maker of namespaces with loopback up."""
    made: list[str] = []

    def make() -> Netns:
        name = f"vxt-{os.getpid()}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        made.append(name)
        ns = Netns(name)
        ns.ip("link set lo up")
        return ns

    try:
        yield make
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(params=["nf_tables", "legacy", "nft"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend that the `iptables` in PATH writes to, as update-alternatives sets it."""
    backend: Backend = request.param
    suffix = "legacy" if backend == "legacy" else "nft"
    for family in ("iptables", "ip6tables"):
        for command in ("", "-save", "-restore"):
            (tmp_path / f"{family}{command}").symlink_to(f"/usr/sbin/{family}-{suffix}{command}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return backend
