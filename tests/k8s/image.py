"""vxland as an image for containerd, made of what is on this machine: no registry, no container engine, some seconds.

It holds what the Dockerfile's image holds, at the same places: a venv in /opt/vxland, on a Python in /usr/local, with
iptables and nft. The Python, the packages and the programs are those that run here; libraries keep their paths, so
that a program's RUNPATH finds them. One layer, in the format of `docker save`, which `ctr images import` takes.
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
import tomllib
from collections.abc import Iterable, Iterator
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
VENV = Path("/opt/vxland")
SITE = VENV / "lib" / PYTHON / "site-packages"
STDLIB = Path("/usr/local/lib") / PYTHON
UNUSED = {"test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages", "dist-packages"}
FIREWALL = [f"{name}{end}" for name in ("iptables", "ip6tables") for end in ("", "-save", "-restore")]
SHELL = ["sh", "cat", "cp", "ls", "mkdir", "mv", "rm", "sleep", "test", "true"]
ENTRY = f"#!{VENV}/bin/python\nimport sys\n\nfrom vxland.cli import main\n\nsys.exit(main())\n"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(name: str, target: Path) -> None:
    """Write the image, tagged `name` (a whole reference), to the file `target`."""
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
    _text(tar, VENV / "bin" / "vxland", ENTRY, 0o755)
    for folder in ("/tmp", "/run", "/etc", "/proc", "/sys", "/dev"):  # noqa: S108  (of the image)
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)


def _files() -> Iterator[tuple[Path, Path]]:
    """Each file's place in the image, and where it is here."""
    yield Path("/usr/local/bin/python3"), Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in _walk(stdlib):
        inside = path.relative_to(stdlib)
        if inside.parts[0] not in UNUSED and not inside.parts[0].startswith("config-"):
            yield STDLIB / inside, path
    for package in _packages():
        yield from _installed(package)
    for path in _walk(ROOT / "vxland"):
        if path.suffix != ".c":
            yield SITE / path.relative_to(ROOT), path
    for path in (ROOT / "deploy" / "bin").iterdir():
        yield Path("/usr/local/bin") / path.name, path
    for word in (*FIREWALL, "nft"):
        yield Path("/usr/sbin") / word, _program(word)
    for plugin in Path("/usr/lib").glob("*/xtables/*.so"):
        yield plugin, plugin
    yield Path("/bin/busybox"), _program("busybox")


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _installed(package: str) -> Iterator[tuple[Path, Path]]:
    for file in distribution(package).files or ():
        path = Path(str(file.locate()))
        if ".." not in file.parts and path.is_file():  # a script beside the venv's Python is left out
            yield SITE / file, path


def _packages() -> set[str]:
    """The distributions that vxland needs here, and those that they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    wanted = list(project["dependencies"])
    while wanted:
        requirement = wanted.pop()
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform or Python
            continue
        found.add(name)
        wanted += needs
    return found


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Every shared library, and the loader, that the dynamic ones of `binaries` load, as they find it here."""
    told = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", told)}  # scripts and busybox have none: exit code 1


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
    octets = text.encode()
    entry.size, entry.mode = len(octets), mode
    tar.addfile(entry, io.BytesIO(octets))
