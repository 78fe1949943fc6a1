"""Refusals of `security.user` and `security.seccomp` before anything has changed; tests/netns has the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vxland.config import Settings
from vxland.model.errors import ConfigError
from vxland.node.confinement import confine


def refusal(directory: Path, **security: str) -> ConfigError:
    """Return why these settings of the section are refused."""
    settings = Settings.model_validate(
        {"security": security, "control": {"socket": str(directory / "run" / "control.sock")}}
    )
    with pytest.raises(ConfigError) as caught:
        confine(settings, None, directory / "run" / "subnet.env")
    assert not (directory / "run").exists()
    return caught.value


def test_refused_users(tmp_path: Path) -> None:
    """A user that does not exist, and root, which would change nothing, are refused."""
    missing = refusal(tmp_path, user="no-such-user", seccomp="off")
    assert (missing.key, missing.value) == ("security.user", "no-such-user")
    assert missing.remedy.startswith("create this user (useradd --system")
    assert refusal(tmp_path, user="root", seccomp="off").remedy == "name a user that is not root, or leave it out"


def test_a_filter_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on` names the packages to install; `auto` continues without a filter."""
    monkeypatch.setitem(sys.modules, "pyseccomp", None)  # its import fails
    refused = refusal(tmp_path, seccomp="on")
    assert (refused.key, refused.value) == ("security.seccomp", "on")
    assert "pip install 'vxland[hardening]'" in refused.remedy
    confine(Settings(), None, tmp_path / "run" / "subnet.env")
    assert not (tmp_path / "run").exists()


def test_a_filter_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package helps there, so the remedy is `off`."""
    for module in ("vxland.kernel.seccomp", "vxland.node.confinement"):
        monkeypatch.setattr(f"{module}.machine", lambda: "s390x")
    assert "and none for s390x" in refusal(tmp_path, seccomp="on").remedy
