"""Properties of every test: the gear that runs, what the shell must not change, and the order of a parallel run."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

import setup as build
from vxland import pure_wanted

# No deadline of 200 ms for an example: it is a timed assertion, which fails on a busy machine.
settings.register_profile("vxland", deadline=None, derandomize=True, database=None)
settings.register_profile("chance", deadline=None)  # --hypothesis-profile=chance, which `make fuzz` gives
settings.load_profile("vxland")

TOGETHER = ("tests/netns/cluster/", "tests/netns/faults/")
"""Folders whose tests share one cluster, which takes long to start."""

LONG = ("tests/netns/test_bench.py", "tests/netns/test_demo.py")
"""Files that take minutes, and wait more than they compute."""

REAL_KUBE = "[real"
"""Part of the name of tests that share one API server of Kubernetes, which takes as long."""

ONCE = (
    "tests/chart/",
    "tests/registry/",
    "tests/unit/tools/",
    "tests/unit/test_build.py",
    "tests/unit/test_docs_site.py",
)
"""Tests of what is never compiled."""


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run extensions of other sources, and forget what the shell has set."""
    gc.disable()  # until pytest_collection_finish()
    worker = hasattr(config, "workerinput")  # of pytest-xdist; the first process has checked the extensions
    if not worker and not pure_wanted() and (names := build.stale()):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise pytest.UsageError(f"{names[0]}{more}: compiled of other sources than these; run `make build`")
    forget_the_shell()


def forget_the_shell() -> None:
    """Set what processes inherit: `nohup` and `&` ignore signals, and a umask or a locale may be unusual."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _stay)  # a caught signal is at its default again in every program started
    os.umask(0o022)
    for name in [name for name in os.environ if name in {"LANG", "LANGUAGE"} or name.startswith("LC_")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"


def _stay(_number: int, _frame: object) -> None:
    """Do nothing: the tests go on when the terminal is gone, as `nohup` promises."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process of a parallel run ends with it alone; mark what runs once."""
    for item in items:
        if item.nodeid.startswith(ONCE):
            item.add_marker("once")
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.nodeid.startswith((*TOGETHER, *LONG)) or REAL_KUBE in item.nodeid:
        return 0
    return 1 if item.get_closest_marker("netns") else 2 if item.get_closest_marker("slow") else 3


def pytest_collection_finish() -> None:
    """Have the collector look at what tests make: the modules and the tests themselves are 100 MB that stay."""
    gc.freeze()
    gc.enable()


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types here
    """Give each process of `pytest -n` the tests of one file at a time, or all that share something."""

    def _split_scope(self, nodeid: str) -> str:
        if REAL_KUBE in nodeid:
            return REAL_KUBE
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)  # absent with `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Return what shares the tests among processes, in the order of the collection."""
    config.option.loadscopereorder = False
    return ByFile(config, log)
