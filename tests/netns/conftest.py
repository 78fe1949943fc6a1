"""Namespaces for tests against a real kernel: uniquely named, deleted at the end whatever happens."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import uvloop
from pyroute2.netns import setns

from vxland.demo import shell

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

T = TypeVar("T")
_numbers = itertools.count(1)


class Netns:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str) -> str:
        """Standard output of a command run inside; CalledProcessError."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def ip(self, command: str) -> str:
        """Standard output of one `ip` command, given without the `ip`; CalledProcessError."""
        return subprocess.run(
            ["ip", "-n", self.name, *command.split()], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def run_async(
        self,
        main: Callable[[], Coroutine[Any, Any, T]],
        runner: Callable[[Coroutine[Any, Any, T]], T] = uvloop.run,
        timeout_s: float = 60.0,
    ) -> T:
        """What `main()` returns, run by an event loop in a thread of its own that has entered the namespace."""

        def inside() -> T:
            setns(self.name)  # of this thread only, which then ends
            return runner(main())

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result(timeout_s)


@pytest.fixture(scope="session")
def _able() -> None:
    """Skips, with the reason, where there can be no namespaces."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not shell.TUN.exists():
        pytest.skip(f"there is no {shell.TUN}")
    lacking = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if lacking:
        pytest.skip(f"apt-get install {' '.join(sorted(lacking))}")


@pytest.fixture
def netns(_able: None) -> Iterator[Callable[[], Netns]]:
    """A maker of namespaces, loopback up."""
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
