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
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install ([^\n]*)", text)
    assert len(installs) == 3
    for words in installs:
        assert "--require-hashes --only-binary :all:" in words or "--no-index --no-deps" in words
    assert "!requirements-image.lock" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_base_can_be_fixed_by_its_digest() -> None:
    """Every stage that begins with the base takes the digest that is given."""
    text = (ROOT / "Dockerfile").read_text()
    based = re.findall(r"^FROM (?:--platform=\S+ )?(\S*BASE_IMAGE\S*)", text, re.MULTILINE)
    assert based == ["${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}"] * 2
    assert 'BASE_DIGEST: "${BASE_DIGEST:-}"' in (ROOT / "compose.yaml").read_text()
    bake = (ROOT / "docker-bake.hcl").read_text()
    assert re.search(r"BASE_DIGEST += BASE_DIGEST\n", bake)
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", text, re.MULTILINE)
    assert f'variable "BASE_IMAGE" {{ default = "{base}" }}' in bake
    assert f"${{BASE_IMAGE:-{base}}}" in (ROOT / "compose.yaml").read_text()


def test_every_platform_of_a_release_has_a_recipe() -> None:
    """A platform of docker-bake.hcl without a compiler in the Dockerfile fails only in the release."""
    (named,) = re.findall(r"platforms += \[(.*)\]", (ROOT / "docker-bake.hcl").read_text())
    wanted = {platform.split("/")[1] for platform in re.findall(r'"([^"]+)"', named)}
    recipes = re.findall(r"^ +(\w+(?: \| \w+)*)\) arch=", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert wanted == {"amd64", "arm64", "arm"}
    assert wanted <= {name for words in recipes for name in words.split(" | ")}


def test_data_files_may_be_missing() -> None:
    """The image's build sees none of deploy/, and a file of it that was named without a pattern failed the build."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = [path for paths in tools["data-files"].values() for path in paths if "*" not in path]
    assert named == []
