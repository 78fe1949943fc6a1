"""Substitutes for images of public registries, under their names: a Debian of the same suite, with the same programs.

Dockerfile and compose.yaml are used unchanged, without a registry. Each image is made once and kept.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.docker.engine import Engine
from tests.installed import ROOT
from vxland.lab import shell

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
NODE, POD, PROMETHEUS = (COMPOSE["services"][name]["image"] for name in ("node1", "pod1", "prometheus"))

_FOUND: Final = re.search(r"^ARG BASE_IMAGE=(\S+-(\w+))$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
assert _FOUND is not None
BASE, SUITE = _FOUND.groups()

_PACKAGES: Final = "ca-certificates,python3,python3-venv,python3-pip"
_PLUGINS: Final = ("docker-compose", "docker-buildx")
_AUTHORITIES: Final = "usr/local/share/ca-certificates"
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
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
        root, debs = _debian(scratch), scratch / "debs"
        _chroot(scratch, root, "apt-get", "update", "-qq")
        _chroot(scratch, root, "sh", "-ec", f"cd /tmp && apt-get download -qq {' '.join(_PLUGINS)}")
        for deb in (root / "tmp").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, debs], check=True)
            deb.unlink()
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
        root = _debian(scratch)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                [
                    *("docker", "import", "--change", f"ENV PIP_CERT={_BUNDLE} SSL_CERT_FILE={_BUNDLE}"),
                    *("--change", 'CMD ["python"]', "-", BASE),
                ],
                stdin=tar.stdout,
                check=True,
                env=engine.env,
                stdout=subprocess.DEVNULL,
            )
    if not engine.has_image(PROMETHEUS):
        engine.run("build", "-t", PROMETHEUS, "-", stdin=_PROMETHEUS)


def _debian(scratch: Path) -> Path:
    """Return the root file system of the base image, moved to its path only when complete."""
    root = scratch / SUITE
    if root.exists():
        return root
    print(f"debootstrap {SUITE}", flush=True)  # noqa: T201  (otherwise a minute without output)
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    _logged(scratch, "debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, str(part), *_mirror())
    for authority in (Path("/") / _AUTHORITIES).glob("*.crt"):  # authorities that this machine trusts in addition
        shutil.copy(authority, part / _AUTHORITIES)
    _chroot(scratch, part, "update-ca-certificates")
    for name in ("python", "pip"):
        (part / "usr/local/bin" / name).symlink_to(f"/usr/bin/{name}3")
    for marker in part.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    part.rename(root)
    return root


def _mirror() -> list[str]:
    """Return the mirror of this machine's own Debian packages; debootstrap has a default."""
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
