"""The image is made of what its files fix; tests/docker builds it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;]+)(?: ; (.*?))? \\$", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    """Name and version of each requirement of a lock."""
    return {(package, version) for package, version, _ in PIN.findall((ROOT / name).read_text())}


def hashes(name: str) -> list[int]:
    """Return the number of hashes of each requirement in a lock."""
    blocks = re.split(r"^(?=\S)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return [block.count("--hash=sha256:") for block in blocks[1:]]


def test_packages_are_fixed_by_hashes() -> None:
    """The image was built of whatever the registry had that day, without hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["build"]]
    names = {re.split(r"[^\w-]", one, maxsplit=1)[0] for one in wanted}
    image = pins("requirements-image.lock")
    assert names <= {name for name, _ in image}
    assert image <= pins("requirements.lock")  # what the tests run with
    assert all(hashes("requirements-image.lock"))
    installs = re.findall(r"pip install ([^\n]*)", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 2
    assert all(
        "--require-hashes" in words or "--no-index --no-deps --no-build-isolation" in words for words in installs
    )
    assert "!requirements-image.lock" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_base_can_be_fixed_by_its_digest() -> None:
    """Every stage that begins with the base takes the digest that is given."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S*BASE\S*)", text, re.MULTILINE) == ["${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}"] * 2
    assert 'BASE_DIGEST: "${BASE_DIGEST:-}"' in (ROOT / "compose.yaml").read_text()


def test_data_files_may_be_missing() -> None:
    """The image's build sees none of deploy/, and a file of it that was named without a pattern failed the build."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = [path for paths in tools["data-files"].values() for path in paths if "*" not in path]
    assert named == []
