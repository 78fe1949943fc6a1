#!/usr/bin/env python3
"""Make a release of the commit that is checked out: `make release`, or RELEASE=--dry-run for the checks alone.

1. Check: a clean tree on main, no such tag, a name for its author, and CHANGELOG.md with a dated section of the
   version, none of it empty.
2. Build the sdist and the wheels that this machine can (tools/wheels.py) and put them into dist/. Install the wheel for
   this Python and start both commands: they must show this version and commit.
3. Build the Debian package, if the Makefile has a target `deb`; the Helm chart, by the helm of `make build/helm/helm`;
   and the image that the manifests and the chart name, by docker-bake.hcl, if a Docker engine answers here. The other
   architectures are for .github/workflows/release.yml.
4. Tag the commit vVERSION: signed if git has a `user.signingkey`, annotated otherwise.

Nothing is pushed. Exit status: 0 done, 1 a check or a step failed, 2 usage error.
"""

# ruff: noqa: S603, T201  (starts git and docker, and reports to a terminal)

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from tools.steps import PYTHON, StepError, finish, run

BRANCH: Final = "main"
DIST: Final = "dist"
IMAGE: Final = "ghcr.io/vxland/vxland"
BAKE: Final = ("docker", "buildx", "bake", "--file", "docker-bake.hcl")
CHANGELOG: Final = "CHANGELOG.md"
CHART: Final = "deploy/helm/vxland"
HELM: Final = "build/helm/helm"
TOOLS: Final = Path(__file__).parent
VERSION_FILE: Final = "vxland/__init__.py"
COMMANDS: Final = ("vxland", "vxlandctl")
VERSION: Final = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
RELEASE: Final = re.compile(r"## (\S+), (.+)")  # ## 0.1.0, 2026-12-01
HEADING: Final = re.compile(r"(#+) +(.+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why there is no release, and the remedy."""

    cause: str
    remedy: str

    def __str__(self) -> str:
        """Return both on one line."""
        return f"{self.cause}: {self.remedy}"


class ReleaseError(StepError):
    """A problem that ends the release at once."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}: {remedy}")


def changelog_problems(text: str, version: str, today: date) -> list[Problem]:
    """Return what keeps the changelog from describing `version`, whose section must be the topmost."""
    releases = [(number, match) for number, line in _headings(text) if (match := RELEASE.fullmatch(line))]
    wanted = f"## {version}, {today}"
    if not any(match[1] == version for _, match in releases):
        return [Problem(f"{CHANGELOG} has no section for {version}", f"write '{wanted}' above its lines")]
    number, first = releases[0]
    if first[1] != version:
        return [
            Problem(
                f"{CHANGELOG}:{number}: the topmost section is {first[1]}, and {VERSION_FILE} says {version}",
                "give both the same version",
            )
        ]
    found = []
    try:
        if date.fromisoformat(first[2]) > today:
            found.append(Problem(f"{CHANGELOG}:{number}: {first[2]} has not come yet", f"write '{wanted}'"))
    except ValueError:
        found.append(Problem(f"{CHANGELOG}:{number}: '{first[2]}' is no date", f"write '{wanted}'"))
    section = text.splitlines()[number - 1 : releases[1][0] - 1 if len(releases) > 1 else None]
    return found + [
        Problem(f"{CHANGELOG}:{number + at}: '{line}' is empty", "write its lines, or remove the heading")
        for at, line in _empty(section)
    ]


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the headings with their line numbers."""
    for number, line in enumerate(text.splitlines(), 1):
        if HEADING.fullmatch(line):
            yield number, line


def _empty(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the headings, by index, that are followed by no text before the next heading of the same level or above."""
    for at, line in enumerate(lines):
        if not (heading := HEADING.fullmatch(line)):
            continue
        for after in lines[at + 1 :]:
            below = HEADING.fullmatch(after)
            if below and len(below[1]) <= len(heading[1]):
                yield at, line
                break
            if after.strip() and not below:
                break
        else:
            yield at, line


def section_of(text: str, version: str) -> str:
    """Return the lines of one version, for the message of its tag."""
    lines = text.splitlines()
    numbers = [number for number, line in _headings(text) if RELEASE.fullmatch(line)]
    for number, end in zip(numbers, [*numbers[1:], len(lines) + 1], strict=True):
        if lines[number - 1].startswith(f"## {version},"):
            return "\n".join(lines[number : end - 1]).strip()
    return ""


class Release:
    """One release of the repository at `root`."""

    def __init__(self, root: Path, today: date) -> None:
        self.root = root
        self.today = today
        found = VERSION.search(self._read(VERSION_FILE))
        if found is None:
            raise ReleaseError(
                f"{VERSION_FILE} has no version", "write a line such as __version__ = '0.1.0', in double quotes"
            )
        self.version = found[1]
        self.tag = f"v{self.version}"

    def problems(self) -> list[Problem]:
        """Return everything that is not ready, so that one run shows all of it."""
        found = []
        branch = self._git("branch", "--show-current")
        if branch != BRANCH:
            found.append(Problem(f"this is {branch or 'no branch'}, not {BRANCH}", f"git switch {BRANCH}"))
        if changed := self._git("status", "--porcelain").splitlines():
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            named = ", ".join(line[3:] for line in changed[:3])
            found.append(Problem(f"the tree has changes: {named}{more}", "commit or remove them"))
        if self._git("tag", "--list", self.tag):
            found.append(Problem(f"the tag {self.tag} is there already", f"write the next version into {VERSION_FILE}"))
        if subprocess.run(("git", "var", "GIT_COMMITTER_IDENT"), cwd=self.root, capture_output=True).returncode != 0:  # noqa: PLW1510, S607  (PATH's git)
            found.append(Problem("git has no name and address for the tag", "git config user.name, and user.email"))
        return found + changelog_problems(self._read(CHANGELOG), self.version, self.today)

    def build(self, options: str) -> list[Path]:
        """Build the sdist and the wheels, with options for tools/wheels.py, and try the wheel for this Python."""
        with tempfile.TemporaryDirectory() as made:
            wheels = (*PYTHON, "-m", "tools.wheels", "--dist", f"{made}/dist", *options.split())
            run("build the archives", *wheels, cwd=self.root, env={"PYTHONPATH": str(TOOLS.parent)})
            built = sorted(Path(made, "dist").iterdir())
            here = re.compile(rf"-cp{sys.version_info.major}{sys.version_info.minor}-.*_{platform.machine()}\.whl$")
            for wheel in built:
                if here.search(wheel.name):
                    self._try(wheel, Path(made, "venv"))
            (self.root / DIST).mkdir(exist_ok=True)
            return [Path(shutil.copy(path, self.root / DIST)) for path in built]

    def build_deb(self) -> str:
        """Build the Debian package if the Makefile can; return what was done, or why nothing was."""
        makefile = self.root / "Makefile"
        if not makefile.exists() or not re.search(r"^deb:", makefile.read_text(encoding="utf-8"), re.MULTILINE):
            return "no Debian package: the Makefile has no target deb"
        self._run("build the Debian package", "make", "deb")
        return "Debian package: built by make deb"

    def build_chart(self) -> str:
        """Package the Helm chart if the repository has one; return what was done, or why nothing was."""
        if not (self.root / CHART).exists():
            return f"no chart: there is no {CHART}"
        version = ("--version", self.version, "--app-version", self.version)
        self._run("package the chart", str(self.root / HELM), "package", CHART, *version, "--destination", DIST)
        return f"built {DIST}/vxland-{self.version}.tgz"

    def build_image(self) -> str:
        """Build the image of this machine's architecture if Docker can; return what was done, or why nothing was."""
        later = f"build it elsewhere: VERSION={self.version} {' '.join(BAKE)}"
        docker = shutil.which("docker")
        if docker is None:
            return f"no image: docker is not installed here; {later}"
        for question, lack in (
            ("info", "no Docker engine answers here"),
            ("buildx", "Docker has no plugin buildx here"),
        ):
            if subprocess.run((docker, question), capture_output=True, check=False).returncode != 0:
                return f"no image: {lack}; {later}"
        settings = {
            "IMAGE": IMAGE,
            "VERSION": self.version,
            "COMMIT": self._git("rev-parse", "HEAD"),
            "SOURCE_DATE_EPOCH": self._git("log", "-1", "--format=%ct"),
        }
        self._run("build the image", *BAKE, settings=settings)
        return f"image {IMAGE}:{self.version}"

    def make_tag(self) -> str:
        """Tag HEAD with the changelog's section as the message; return what was made."""
        key = subprocess.run(("git", "config", "user.signingkey"), cwd=self.root, capture_output=True, check=False)  # noqa: S607  (PATH's git)
        kind, option = ("signed", "--sign") if key.stdout.strip() else ("annotated", "--annotate")
        message = f"vxland {self.version}\n\n{section_of(self._read(CHANGELOG), self.version)}\n"
        self._git("tag", option, "--cleanup=verbatim", "--message", message, self.tag)
        return f"{kind} tag {self.tag}"

    def _try(self, wheel: Path, venv: Path) -> None:
        """Install the wheel into an environment of its own, and start each command."""
        self._run("make a virtual environment", *PYTHON, "-m", "venv", "--without-pip", str(venv))
        python = str(venv / "bin" / "python")
        pip = (*PYTHON, "-m", "pip", "--python", python, "install", "--quiet")
        self._run("install the wheel", *pip, str(wheel))
        commit = self._git("rev-parse", "--short=12", "HEAD")
        for command in COMMANDS:
            said = self._run(f"start {command}", str(venv / "bin" / command), "--version")
            if said != f"{command}, version {self.version}, commit {commit}":
                raise ReleaseError(f"{command} --version says '{said}'", "run `make clean`, and start again")

    def _read(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except OSError as exc:
            raise ReleaseError(f"{name}: {exc.strerror}", "start this in vxland's repository") from exc

    def _git(self, *args: str) -> str:
        return self._run(f"git {args[0]}", "git", *args)

    def _run(self, what: str, *command: str, settings: Mapping[str, str] | None = None) -> str:
        return run(what, *command, cwd=self.root, env=settings)


def top() -> Path:
    """Return the top of the repository of the current directory."""
    try:
        return Path(run("find the repository", "git", "rev-parse", "--show-toplevel"))
    except StepError as exc:
        raise ReleaseError(str(exc), "start this in a clone of vxland") from exc


def make(wheels: str, *, dry_run: bool) -> None:
    """Check, build, tag; one line for each step and for each problem."""
    release = Release(top(), datetime.now(UTC).date())
    if problems := release.problems():
        raise StepError("\nrelease: ".join(map(str, problems)))
    print(f"vxland {release.version}: ready")
    if dry_run:
        print(f"--dry-run: would build {DIST}/, the Debian package, the chart and the image, and tag {release.tag}")
        return
    print("building: some minutes for each Python and architecture", flush=True)
    for path in release.build(wheels):
        print(f"built {path.relative_to(release.root)}")
    print(release.build_deb())
    print(release.build_chart())
    print(release.build_image())
    print(release.make_tag())
    print(f"nothing is pushed yet: git push origin {BRANCH} {release.tag}")


def main() -> int:
    """Make the release, with the options of the command line."""
    parser = argparse.ArgumentParser(description="Make a release of the commit that is checked out. Pushes nothing.")
    parser.add_argument("--dry-run", action="store_true", help="check only: build nothing, tag nothing")
    parser.add_argument(
        "--wheels",
        default="--arch amd64 --arch arm64 --arch armhf --musl",
        help="options for tools/wheels.py [%(default)s]",
    )
    given = parser.parse_args()
    return finish("release", lambda: make(given.wheels, dry_run=given.dry_run))


if __name__ == "__main__":
    sys.exit(main())
