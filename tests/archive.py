"""Container images made from this machine's files, in the format of `docker save`, which `ctr images import` reads.

One layer, without registry and container engine. Libraries keep their paths, so that a program's RUNPATH finds them.
"""

from __future__ import annotations

import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

FIREWALL: Final = [f"{name}{end}" for name in ("iptables", "ip6tables") for end in ("", "-save", "-restore")]
PATH: Final = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write(target: Path, names: Iterable[str], fill: Callable[[tarfile.TarFile], None], **config: Any) -> None:  # noqa: ANN401  (JSON)
    """Write an image to the file `target`, under full references; `fill` puts the files into its layer."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        fill(tar)
        for folder in ("/tmp", "/run", "/etc", "/proc", "/sys", "/dev"):  # noqa: S108  (of the image)
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    with layer.open("rb") as file:
        digest = file_digest(file, "sha256")
    description = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Env": [PATH], **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        text(tar, Path("/config.json"), json.dumps(description))
        text(tar, Path("/manifest.json"), json.dumps(manifest))
        tar.add(layer, "layer.tar")
    layer.unlink()


def add(tar: tarfile.TarFile, files: Iterable[tuple[Path, Path]]) -> None:
    """Add files, each as its path in the image and its path here, and the libraries that they load."""
    binaries: list[Path] = []
    for there, here in files:
        tar.add(here.resolve(), str(there), filter=_owned_by_root)
        if ".so" in here.suffixes or there.parent.name in {"bin", "sbin"}:
            binaries.append(here)
    for library in _libraries(binaries):
        tar.add(library.resolve(), str(library), filter=_owned_by_root)


def link(tar: tarfile.TarFile, path: Path, to: str) -> None:
    """Add a symbolic link."""
    entry = tarfile.TarInfo(str(path))
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    tar.addfile(entry)


def text(tar: tarfile.TarFile, path: Path, content: str, mode: int = 0o644) -> None:
    """Add a file with this content."""
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    raw = content.encode()
    entry.size, entry.mode = len(raw), mode
    tar.addfile(entry, io.BytesIO(raw))


def firewall() -> Iterator[tuple[Path, Path]]:
    """Yield the programs and plugins of iptables, for add()."""
    for word in FIREWALL:
        yield Path("/usr/sbin") / word, program(word)
    for plugin in Path("/usr/lib").glob("*/xtables/*.so"):
        yield plugin, plugin


def program(name: str) -> Path:
    """Return the path of a program of this machine, resolved."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: run tools/packages.sh for this target")
    return Path(path).resolve()


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return every shared library, and the loader, that the dynamic ones of `binaries` load here."""
    output = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", output)}  # scripts and busybox load none: exit code 1


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o444
    return entry
