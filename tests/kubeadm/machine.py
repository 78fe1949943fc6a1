"""A booted Debian 12 with containerd and a kubelet, as kubeadm wants it.

Its files are those of a shared root file system. What containerd, the kubelet and etcd keep is on this machine's disk,
everything else in memory; both are lost with it.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from tests.docker.images import debian
from tests.installed import ROOT
from tests.systemd.node import CGROUPS, Node
from vxland.lab import shell

OUTSIDE: Final = "192.168.111.1"
"""The address of the host beside the cluster, which is the nodes' default route."""

IMAGES: Final = "/srv/images"
HOME: Final = "/srv/vxland"
"""Folders of a node: archives of images, and vxland's deploy/."""

_PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "procps", "iproute2", "iputils-ping", "ca-certificates"),
    *("containerd", "runc", "containernetworking-plugins"),
    *("conntrack", "ebtables", "ethtool", "iptables", "kmod", "mount", "socat"),
)
"""A small Debian, containerd, and what the Kubernetes project's packages of the kubelet and of kubeadm depend on."""

_MASKED: Final = ("systemd-networkd-wait-online.service", "systemd-firstboot.service")
_PROGRAMS: Final = ("kubelet", "kubeadm", "crictl")
_CLIENTS: Final = ("kubectl", "helm")
_ON_DISK: Final = ("containerd", "kubelet", "etcd")
_BUILT_IN: Final = ("drivers/net/tun", "fs/overlayfs/overlay", "net/bridge/br_netfilter")
"""Modules of this kernel that modprobe must find; the kernel has no list of them."""

_SETTLED: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""Settings of the whole machine that a kubelet would write: it finds files that have its values already."""

_KUBELET: Final = """\
[Unit]
Description=kubelet: the unit of the Kubernetes project's package, with kubeadm's drop-in

[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def prepared(scratch: Path, binaries: Path, clients: Path) -> Path:
    """Return the nodes' root file system: Debian's packages, the kubelet and kubeadm, kubectl and helm."""
    root = debian(scratch, "kubeadm", "bookworm", _PACKAGES)
    for folder, names, target in ((binaries, _PROGRAMS, "usr/bin"), (clients, _CLIENTS, "usr/local/bin")):
        for name in names:
            shutil.copy(folder / name, root / target)
    (root / "etc/systemd/system/kubelet.service").write_text(_KUBELET)
    for command in (("enable", "kubelet"), ("mask", *_MASKED)):
        subprocess.run(["chroot", root, "systemctl", "--quiet", *command], check=True)
    for name in ("hostname", "resolv.conf"):  # of this machine
        (root / "etc" / name).unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")  # each node makes its own
    _let_containers_start(root / "etc/containerd/config.toml")
    modules = root / "lib/modules" / platform.release()
    modules.mkdir(parents=True, exist_ok=True)
    (modules / "modules.builtin").write_text("".join(f"kernel/{each}.ko\n" for each in _BUILT_IN))
    for name in ("modules.order", "modules.builtin.modinfo"):  # depmod warns without them
        (modules / name).touch()
    subprocess.run(["chroot", root, "depmod"], check=True)
    return root


def _let_containers_start(config: Path) -> None:
    """Forbid containerd to lower a process's oom_score_adj below its own, which needs a right that a node may lack."""
    section, setting = '[plugins."io.containerd.grpc.v1.cri"]\n', "    restrict_oom_score_adj = true\n"
    text = config.read_text()
    assert section in text
    if setting not in text:
        config.write_text(text.replace(section, section + setting))


class Machine(Node):
    """Node 0 or 1 of a cluster; `images` has what its containerd can import."""

    hierarchies = () if (CGROUPS / "cgroup.procs").exists() else tuple(path.name for path in CGROUPS.iterdir())

    def __init__(self, name: str, number: int, root: Path, scratch: Path, images: Path) -> None:
        super().__init__(name, number, root, scratch)
        self._disk = scratch / self.name / "disk"
        self.options = (
            *("--capability=all", "--system-call-filter=bpf keyctl", "--bind=/dev/kmsg"),
            *(f"--bind={self._disk / each}:/var/lib/{each}" for each in _ON_DISK),
            *(f"--bind-ro={images}:{IMAGES}", f"--bind-ro={ROOT / 'deploy'}:{HOME}/deploy"),
        )

    def create(self) -> None:
        """Make network namespace, folders, and the groups below which the kubelet makes those of pods."""
        super().create()
        for each in _ON_DISK:
            (self._disk / each).mkdir(parents=True)
        for group in self._groups:
            group.mkdir(exist_ok=True)
            if (group / "cpuset.cpus").exists():
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((group.parent / file).read_text())
                (group / "cgroup.clone_children").write_text("1")

    def connect(self) -> None:
        """Give the underlay its address, and the way to everything else."""
        super().connect()
        shell.run("ip", "-n", self.name, "route", "add", "default", "via", OUTSIDE)

    def wait_booted(self) -> None:
        """Return once systemd inside reports that it is running, and the node may have containers.

        Of /proc/sys, only what belongs to the network namespace can be written.
        """
        super().wait_booted()
        lines = ["mount -o remount,bind,ro /proc/sys", "mount --bind /proc/sys/net /proc/sys/net"]
        lines += ["mount -o remount,bind,rw /proc/sys/net", "cd /run"]
        for number, (name, value) in enumerate(_SETTLED.items()):
            lines += [f"echo {value} >settled-{number}", f"mount --bind settled-{number} /proc/sys/{name}"]
        lines += ["for group in /sys/fs/cgroup/*/; do mount -o remount,bind,rw $group; done"]
        self.run("sh", "-euc", "\n".join(lines))

    def down(self) -> None:
        """Remove everything. Programs of pods need not end when a shutdown asks them: their first process is killed."""
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        super().down()

    def sh(self, script: str, stdin: str = "") -> str:
        """Run commands of a page where deploy/ is, as root with the cluster's credentials; return their output."""
        env = ("env", "-i", "HOME=/root", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        done = self.attempt(*env, "sh", "-euc", f"cd {HOME}\n{script}", stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}{done.stderr}"
        return done.stdout
