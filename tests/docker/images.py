"""Substitutes for images of public registries, under their names: the same Debian, made of Debian's packages.

Dockerfile and compose.yaml are used unchanged, without a registry. Each root file system is made once and kept.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.docker.engine import Engine
from tests.installed import ROOT
from vxland.lab import shell

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
NODE, POD, PROMETHEUS = (COMPOSE["services"][name]["image"] for name in ("node1", "pod1", "prometheus"))

_FOUND: Final = re.search(r"^ARG BASE_IMAGE=(\w+:(\w+)-slim)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
assert _FOUND is not None
BASE, SUITE = _FOUND.groups()

_PLUGINS: Final = ("docker-compose", "docker-buildx")
_AUTHORITIES: Final = "usr/local/share/ca-certificates"
NO_DEVICES: Final = ("--wildcards", "--exclude=./dev/*")
_LEFT_OUT: Final = ("doc", "groff", "info", "lintian", "locale", "man")
"""Folders of /usr/share that the slim variant of Debian's image has not; NO_DEVICES are tar's options for /dev."""

_PROMETHEUS: Final = f"""\
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""


def client_plugins(scratch: Path) -> Path:
    """Return the folder with `docker compose` and buildx of the base image's Debian: older ones have no Compose V2."""
    plugins = scratch / "cli-plugins"
    if not plugins.exists():
        root, debs = debian(scratch, "slim", SUITE), scratch / "debs"
        _chroot(scratch, root, "apt-get", "update", "-qq")
        _chroot(scratch, root, "sh", "-ec", f"cd /tmp && apt-get download -qq {' '.join(_PLUGINS)}")
        for deb in (root / "tmp").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, debs], check=True)
            deb.unlink()
        _chroot(scratch, root, "sh", "-c", "rm -rf /var/lib/apt/lists/* /var/cache/apt/*")
        part = plugins.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in _PLUGINS:
            shutil.copy2(next(debs.glob(f"usr/**/cli-plugins/{name}")), part)
        shutil.rmtree(debs)
        part.rename(plugins)
    return plugins


def make(engine: Engine, scratch: Path) -> None:
    """Make both images if the engine lacks them."""
    if not engine.has_image(BASE):
        root = debian(scratch, "slim", SUITE)
        with subprocess.Popen(["tar", "-C", root, *NO_DEVICES, "-c", "."], stdout=subprocess.PIPE) as tar:
            command = ["docker", "import", "--change", 'CMD ["bash"]', "-", BASE]
            subprocess.run(command, stdin=tar.stdout, check=True, env=engine.env, stdout=subprocess.DEVNULL)
    if not engine.has_image(PROMETHEUS):
        engine.run("build", "-t", PROMETHEUS, "-", stdin=_PROMETHEUS)


def debian(scratch: Path, name: str, suite: str, packages: Sequence[str] = ()) -> Path:
    """Return the root file system of a small Debian, moved to its path only when complete."""
    root = scratch / f"{suite}-{name}"
    if root.exists():
        return root
    print(f"mmdebstrap {suite}: {name}", flush=True)  # noqa: T201  (otherwise a minute without output)
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    _logged(scratch, *minimal(suite, part), *(f"--include={one}" for one in packages), *mirror())
    # Authorities that this machine trusts in addition: in the image, ca-certificates makes them pip's.
    (part / _AUTHORITIES).mkdir(parents=True, exist_ok=True)
    for authority in (Path("/") / _AUTHORITIES).glob("*.crt"):
        shutil.copy(authority, part / _AUTHORITIES)
    part.rename(root)
    return root


def minimal(suite: str, target: Path) -> tuple[str, ...]:
    """Return the command that makes Debian's slim image; options and the mirror may follow."""
    left_out = (f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _LEFT_OUT)
    kept = "--dpkgopt=path-include=/usr/share/doc/*/copyright"
    untranslated = '--aptopt=Acquire::Languages "none"'
    return ("mmdebstrap", "--variant=minbase", *left_out, kept, untranslated, suite, str(target))


def mirror() -> list[str]:
    """Return the mirror of this machine's own Debian packages; mmdebstrap has a default."""
    listed = shell.attempt(
        ("apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages")
    )
    found = (line.split() for line in listed.stdout.splitlines())
    return [words[2] for words in found if len(words) == 3 and words[0] == "Debian" and "-" not in words[1]][:1]


def _chroot(scratch: Path, root: Path, *argv: str) -> None:
    _logged(scratch, "env", "-u", "TMPDIR", "chroot", str(root), *argv)  # its folder may not exist inside


def _logged(scratch: Path, *argv: str) -> None:
    with (scratch / "images.log").open("ab") as log:
        subprocess.run(argv, stdout=log, stderr=log, check=True)
