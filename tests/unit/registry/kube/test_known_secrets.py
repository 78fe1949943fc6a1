"""Credentials of the API server are known as secrets once they are read, so that no error or event quotes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from vxland.config.flannel import KubeSettings
from vxland.model import secrets
from vxland.registry.errors import StoreError
from vxland.registry.kube.credentials import open_access

KUBECONFIG = """
current-context: here
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "http://192.0.2.1:8080"}}}}]
users: [{{name: u, user: {user}}}]
"""
PAIR = base64.b64encode(b"flannel:hunter2").decode()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Leave no secret to other tests."""
    yield
    secrets._known.clear()


@pytest.mark.parametrize(
    ("user", "secret"),
    [("{token: abcd1234}", "abcd1234"), ("{username: flannel, password: hunter2}", "hunter2")],
)
def test_of_a_kubeconfig(tmp_path: Path, user: str, secret: str) -> None:
    """A server's error repeated the header that it was sent."""
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.format(user=user))
    open_access(KubeSettings(kubeconfig=path), {})
    assert secret not in str(StoreError(f"HTTP 500: you sent {secret}, {PAIR}"))
    assert (PAIR in str(StoreError(f"HTTP 500: {PAIR}"))) is ("token" in user)


def test_of_a_service_account(tmp_path: Path) -> None:
    """The token that the kubelet replaces is known each time it is read."""
    (tmp_path / "ca.crt").write_text("")
    for token in ("first-token", "second-token"):
        (tmp_path / "token").write_text(f"{token}\n")
        there = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443"}
        open_access(KubeSettings(), there, tmp_path)
        assert token not in str(StoreError(f"HTTP 500: {token}"))
