"""Packages that the Makefile's targets install; tests/systemd tests the services among them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from vxland.lab import shell

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "packages.sh"
SERVERS = {"etcd-server", "containerd", "docker.io"}
"""Packages with a service that Debian starts."""

RULE = re.compile(r"^(\S+):.*\n((?:\t.*\n)+)", re.MULTILINE)


def packages(target: str) -> set[str]:
    """Return the packages that a target installs."""
    done = subprocess.run((SCRIPT, "--list", target), check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def installed_by() -> dict[str, set[str]]:
    """The sets of the script that each target of the Makefile names."""
    rules = RULE.findall((ROOT / "Makefile").read_text())
    found = {target: set(re.findall(r"tools/packages\.sh (\w+)", recipe)) for target, recipe in rules}
    return {target: names for target, names in found.items() if names}


def test_targets_install_what_they_need() -> None:
    """`make demo` and `make build` installed etcd-server, which is started and listens on port 2379."""
    assert installed_by() == {
        "$(VENV)/.packages": {"build"},
        "test": {"test", "pages"},
        "demo": {"demo"},
        "bench": {"bench"},
        "reliability": {"test"},
        "pictures": {"demo", "pages"},
        "fuzz": {"fuzz"},
        "programs": {"programs"},
        "test-k8s": {"k8s"},
        "test-kubeadm": {"kubeadm"},
        "test-systemd": {"systemd"},
        "test-docker": {"docker"},
        "wheels": {"wheels"},
        "test-wheel": {"wheels"},
        "deb": {"deb"},
    }
    assert packages("build") == {"python3-venv", "python3-dev", "gcc", "make"}
    assert packages("demo") == set(shell.PACKAGES.values())
    assert [name for name in ("build", "demo", "bench", "pages", "fuzz", "systemd") if packages(name) & SERVERS] == []


@pytest.mark.parametrize(
    ("target", "locks"),
    [("build", ["requirements-image.lock"]), ("demo", ["requirements-image.lock", "requirements-lab.lock"])],
)
def test_locks_for_running_are_the_image_s(target: str, locks: list[str]) -> None:
    """`make demo` on a new machine installed 529 MB, most of it what checks and documents vxland."""
    done = subprocess.run(
        ("make", "--dry-run", "--always-make", target), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert re.findall(r"--require-hashes -r (\S+)", done.stdout) == locks
    assert done.stdout.count("pip install") == 1 + len(locks)  # and vxland itself


@pytest.mark.parametrize("target", ["", "build"])
def test_no_target_is_the_build(target: str) -> None:
    """Without a word the script installs the least."""
    assert packages(target) == packages("build")


def test_an_unknown_target_is_refused() -> None:
    """Nothing is installed for a word that is no target, and the answer names those that are."""
    done = subprocess.run((SCRIPT, "everything"), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("everything: no target; it is one of build, demo, ")


def test_the_demo_asks_for_root_at_once(tmp_path: Path) -> None:
    """`make demo` of another user compiled for three minutes before it said so."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(("make", "demo"), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("make demo needs root, for network namespaces: run it with sudo\n")
    assert done.stdout == ""
