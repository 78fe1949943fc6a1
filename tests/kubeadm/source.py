"""kubeadm and kube-proxy, built from the source package of Debian 12, which builds kubectl alone from it.

The package has cmd/kubeadm and cmd/kube-proxy, and every module that they need in vendor/. A newer Go wants another
go.mod, so the tree is built in a GOPATH, as Debian builds it. vendor/ has a reflect2 that corrupts memory with Go 1.18
and later; Debian's package of it takes its place. The build takes a minute on two idle CPUs, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.docker.images import mirror

_HERE: Final = Path(__file__).parent
_SUITE: Final = "bookworm"
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_COMMANDS: Final = ("kubeadm", "kube-proxy", "crictl")
_VERSIONS: Final = ("component-base/version", "client-go/pkg/version")
_REFLECT: Final = Path("github.com/modern-go/reflect2")


def build(scratch: Path, binaries: Path, version: str) -> None:
    """Put kubeadm, kube-proxy, crictl and pause into the folder `binaries`, unless it has those of this version."""
    stamp = binaries / ".built"
    made_of = sha256(b"".join(path.read_bytes() for path in (Path(__file__), _HERE / "crictl.go"))).hexdigest()
    if stamp.exists() and stamp.read_text() == f"{made_of} {version}":
        return
    print("building kubeadm and kube-proxy", flush=True)  # noqa: T201  (otherwise a minute without output)
    work = scratch / "source"
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "go/src/k8s.io/kubernetes"
    tree.parent.mkdir(parents=True)
    with (scratch / "source.log").open("wb") as log:
        _fetch(work, tree, log.fileno())
        shutil.rmtree(tree / "vendor" / _REFLECT)
        shutil.copytree(Path("/usr/share/gocode/src") / _REFLECT, tree / "vendor" / _REFLECT)
        (tree / "cmd/crictl").mkdir()
        shutil.copy(_HERE / "crictl.go", tree / "cmd/crictl/main.go")
        names = [f"k8s.io/kubernetes/vendor/k8s.io/{each}" for each in _VERSIONS]
        major, minor, _ = version.lstrip("v").split(".")
        known = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        flags = " ".join(f"-X {name}.{key}={value}" for name in names for key, value in known.items())
        env = os.environ | {"GO111MODULE": "off", "GOPATH": str(work / "go"), "GOCACHE": str(work / "cache")}
        env |= {"CGO_ENABLED": "0", "GOFLAGS": "", "GOPROXY": "off"}
        command = ("go", "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", f"{binaries}/")
        packages = [f"k8s.io/kubernetes/cmd/{each}" for each in _COMMANDS]
        subprocess.run([*command, *packages], cwd=tree, env=env, stdout=log, stderr=log, check=True)
        pause = ("gcc", "-Os", "-static", "-o", binaries / "pause", tree / "build/pause/linux/pause.c")
        subprocess.run(pause, stdout=log, stderr=log, check=True)
    shutil.rmtree(work)
    stamp.write_text(f"{made_of} {version}")


def _fetch(work: Path, tree: Path, log: int) -> None:
    """Download and unpack the source, with a configuration of apt for this alone."""
    lists, sources = work / "lists", work / "apt.sources"
    (lists / "partial").mkdir(parents=True)
    if not (found := mirror()):
        raise RuntimeError("apt knows no mirror of Debian: this test needs its source packages")
    sources.write_text(f"Types: deb-src\nURIs: {found[0]}\nSuites: {_SUITE}\nComponents: main\nSigned-By: {_KEYRING}\n")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": lists,
        "Dir::Cache": work,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    for command in ([*apt, "update"], [*apt, "source", "--download-only", "kubernetes"]):
        subprocess.run(command, cwd=work, stdout=log, stderr=log, check=True)
    (description,) = work.glob("*.dsc")
    unpack = ("dpkg-source", "--no-check", "-x", description, tree)
    subprocess.run(unpack, stdout=log, stderr=log, check=True)
