"""vxland as an image for containerd, made from this machine's files: no registry, no container engine, some seconds.

It has the contents of the Dockerfile's image: a venv in /opt/vxland, with iptables and nft, on a Python that is in
/usr/local here. Python, packages and programs are those of this machine; libraries keep their paths, so that a
program's RUNPATH finds them. One layer, in the format of `docker save`, which `ctr images import` reads.
"""

from __future__ import annotations

import io
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import file_digest
from pathlib import Path

from tests.installed import ENTRY, ROOT, files
from tests.k8s.cluster import NODES, Cluster
from tools.release import IMAGE
from vxland import __version__

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
VENV = Path("/opt/vxland")
SITE = VENV / "lib" / PYTHON / "site-packages"
STDLIB = Path("/usr/local/lib") / PYTHON
UNUSED = {"test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages"}
FIREWALL = [f"{name}{end}" for name in ("iptables", "ip6tables") for end in ("", "-save", "-restore")]
SHELL = ["sh", "cat", "cp", "ls", "mkdir", "mv", "rm", "sleep", "test", "true"]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def load(cluster: Cluster) -> None:
    """Build the image under the name that the manifests have, and import it on every node as their pages say."""
    archive = cluster.lab / "vxland.tar"
    build(f"{IMAGE}:{__version__}", archive)
    for node in NODES:
        cluster.run("exec", str(node), "ctr", "-n", "k8s.io", "images", "import", archive)


def build(name: str, target: Path) -> None:
    """Write the image, with the full reference `name`, to the file `target`."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        _fill(tar)
    with layer.open("rb") as file:
        digest = file_digest(file, "sha256")
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": [f"PATH={VENV}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/bin"], "Entrypoint": ["vxland"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _text(tar, Path("/config.json"), json.dumps(config))
        _text(tar, Path("/manifest.json"), json.dumps(manifest))
        tar.add(layer, "layer.tar")
    layer.unlink()


def _fill(tar: tarfile.TarFile) -> None:
    binaries: list[Path] = []
    for there, here in _files():
        tar.add(here.resolve(), str(there), filter=_owned_by_root)
        if ".so" in here.suffixes or there.parent.name in {"bin", "sbin"}:
            binaries.append(here)
    for library in _libraries(binaries):
        tar.add(library.resolve(), str(library), filter=_owned_by_root)
    for word in SHELL:
        _link(tar, Path("/bin") / word, "busybox")
    _link(tar, Path("/usr/bin/env"), "/bin/busybox")
    _link(tar, VENV / "bin" / "python", "/usr/local/bin/python3")
    _text(tar, VENV / "pyvenv.cfg", "home = /usr/local/bin\n")
    _text(tar, VENV / "bin" / "vxland", f"#!{VENV}/bin/python\n{ENTRY}", 0o755)
    for folder in ("/tmp", "/run", "/etc", "/proc", "/sys", "/dev"):  # noqa: S108  (of the image)
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)


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
    for word in (*FIREWALL, "nft"):
        yield Path("/usr/sbin") / word, _program(word)
    for plugin in Path("/usr/lib").glob("*/xtables/*.so"):
        yield plugin, plugin
    for library in Path("/usr/lib").glob("*/libbpf.so.1"):
        yield library, library
    yield Path("/bin/busybox"), _program("busybox")


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return every shared library, and the loader, that the dynamic ones of `binaries` load here."""
    output = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", output)}  # scripts and busybox load none: exit code 1


def _program(name: str) -> Path:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: run tools/packages.sh k8s")
    return Path(path).resolve()


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o444
    return entry


def _link(tar: tarfile.TarFile, path: Path, to: str) -> None:
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    tar.addfile(entry)


def _text(tar: tarfile.TarFile, path: Path, text: str, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    raw = text.encode()
    entry.size, entry.mode = len(raw), mode
    tar.addfile(entry, io.BytesIO(raw))
