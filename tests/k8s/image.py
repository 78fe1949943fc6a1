"""vxland as an image for containerd, made from this machine's files: no registry, no container engine, some seconds.

It has the contents of the Dockerfile's image: a venv in /opt/vxland, with iptables and nft, on a Python that is in
/usr/local here. Python, packages and programs are those of this machine.
"""

from __future__ import annotations

import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests import archive
from tests.installed import ENTRY, ROOT, files
from tests.k8s.cluster import NODES, Cluster
from tools.release import IMAGE
from vxland import __version__

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
VENV = Path("/opt/vxland")
SITE = VENV / "lib" / PYTHON / "site-packages"
STDLIB = Path("/usr/local/lib") / PYTHON
UNUSED = {"test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages"}
SHELL = ["sh", "cat", "cp", "ls", "mkdir", "mv", "rm", "sleep", "test", "true"]
NAME = f"{IMAGE}:{__version__}"
"""The name that the manifests and the chart have."""


def load(cluster: Cluster) -> None:
    """Build the image under the name that the manifests have, and import it on every node as their pages say."""
    target = cluster.lab / "vxland.tar"
    build(target)
    for node in NODES:
        cluster.run("exec", str(node), "ctr", "-n", "k8s.io", "images", "import", target)


def build(target: Path) -> None:
    """Write the image to the file `target`."""
    path = archive.PATH.replace("=", f"={VENV}/bin:")
    archive.write(target, [NAME], _fill, Env=[path], Entrypoint=["vxland"])


def _fill(tar: tarfile.TarFile) -> None:
    archive.add(tar, _files())
    for word in SHELL:
        archive.link(tar, Path("/bin") / word, "busybox")
    archive.link(tar, Path("/usr/bin/env"), "/bin/busybox")
    archive.link(tar, VENV / "bin" / "python", "/usr/local/bin/python3")
    archive.text(tar, VENV / "pyvenv.cfg", "home = /usr/local/bin\n")
    for name, module in (("vxland", "vxland.__main__"), ("vxlandctl", "vxland.ctl.cli")):
        entry = ENTRY.replace("vxland.__main__", module)
        archive.text(tar, VENV / "bin" / name, f"#!{VENV}/bin/python\n{entry}", 0o755)


def _files() -> Iterator[tuple[Path, Path]]:
    """Yield each file's path in the image, and its path here."""
    yield Path("/usr/local/bin/python3"), Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in _walk(stdlib):
        inside = path.relative_to(stdlib)
        if inside.parts[0] not in UNUSED and not inside.parts[0].startswith("config-"):
            yield STDLIB / inside, path
    for place, path in files():
        yield SITE / place, path
    for path in (ROOT / "deploy" / "bin").iterdir():
        yield Path("/usr/local/bin") / path.name, path
    yield from archive.firewall()
    yield Path("/usr/sbin/nft"), archive.program("nft")
    for library in Path("/usr/lib").glob("*/libbpf.so.1"):
        yield library, library
    yield Path("/bin/busybox"), archive.program("busybox")


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
