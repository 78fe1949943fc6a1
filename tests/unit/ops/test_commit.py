"""The commit that `--version` shows: of a build, of a checkout, and of an installation that knows none."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vxland import __version__
from vxland.cli.main import main as vxland
from vxland.ctl.cli import main as vxlandctl

ROOT = Path(__file__).parents[3]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder `vxland` with the module, as installed without a commit."""
    target = tmp_path / "above" / "site" / "vxland" / "ops"
    target.mkdir(parents=True)
    shutil.copy(ROOT / "vxland" / "ops" / "commit.py", target)
    return target.parent


def found(package: Path) -> str:
    """The commit that the module in `package` finds."""
    said = runpy.run_path(str(package / "ops" / "commit.py"))["commit"]()
    assert isinstance(said, str)
    return said


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, with settings of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(("git", *who, *words), cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    """Make a repository of a folder and return its commit."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return git(folder, "rev-parse", "HEAD")[:12]


def test_a_build_has_its_commit(package: Path) -> None:
    """The file that setup.py wrote counts, not a repository that holds the installation."""
    (package / "commit").write_text("0123456789ab\n")
    commit_all(package.parent)
    assert found(package) == "0123456789ab"


def test_a_checkout_asks_git(package: Path) -> None:
    """The commit that is checked out; a tag does not hide it, and changes show."""
    commit = commit_all(package.parent)
    git(package.parent, "tag", "v9")
    assert found(package) == commit
    with (package / "ops" / "commit.py").open("a") as file:
        file.write("\n")
    assert found(package) == f"{commit}-dirty"


def test_an_installation_knows_none(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the repository of a folder above counts nor is a missing or failing git an error."""
    commit_all(package.parent.parent)
    assert found(package) == ""
    (package.parent / ".git").mkdir()  # an empty one: git refuses it
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parent.parent))
    assert found(package) == ""
    monkeypatch.setenv("PATH", "")
    assert found(package) == ""


@pytest.mark.parametrize("program", [vxland, vxlandctl])
@pytest.mark.parametrize("commit", ["", "0123456789ab"])
def test_version_shows_it(program: click.Command, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both programs show the same."""
    monkeypatch.setattr("vxland.ops.terminal.commit", lambda: commit)
    name = "vxland" if program is vxland else "vxlandctl"
    result = CliRunner().invoke(program, ["--version"])
    assert result.output == f"{name}, version {__version__}" + (f", commit {commit}\n" if commit else "\n")
