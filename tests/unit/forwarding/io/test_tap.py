"""Device nodes with which no TAP can be opened, and the remedies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from vxland.forwarding.io import tap


@pytest.mark.parametrize("node", ["/dev/null", "/dev"])
def test_a_node_of_another_device(monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    """`check --here` found nothing, because it could be opened; the start failed."""
    monkeypatch.setattr(tap, "_DEVICE_NODE", node)
    problem = tap.unusable("flannel.1")
    assert problem is not None
    assert (problem.cause, "mknod" in problem.remedy) == (f"{node} is no TUN device", True)


def test_a_missing_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel has no module, or a container no device."""
    monkeypatch.setattr(tap, "_DEVICE_NODE", str(tmp_path / "tun"))
    problem = tap.unusable("flannel.1")
    assert problem is not None
    assert "modprobe tun" in problem.remedy


def test_a_node_that_a_container_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device cgroup forbids it even root with CAP_NET_ADMIN, which was the remedy."""

    def refuse(path: str, _: int) -> NoReturn:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "open", refuse)
    problem = tap.unusable("flannel.1")
    assert problem is not None
    assert problem.cause == "no permission to open /dev/net/tun"
    assert "--device /dev/net/tun" in problem.remedy
