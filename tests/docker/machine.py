"""A small Debian with its own Docker engine, in namespaces of its own.

Its files are those of a shared root file system. Its changes are kept in memory, and lost with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar, Final

from tests.docker.engine import BUILD_S, remove_cgroups, wait_until
from vxland.lab import shell

PACKAGES: Final = ("ca-certificates", "docker.io", "iproute2", "iptables", "iputils-ping")
CLIENT: Final = "docker-cli"  # separate from docker.io since Debian 13

_MOUNTS: Final = """\
mount --make-rprivate /
mount -t tmpfs tmpfs "$RUN/ram"
mkdir "$RUN/ram/upper" "$RUN/ram/work" "$RUN/ram/root"
cd "$RUN/ram"
mount -t overlay -o "lowerdir=$ROOT,upperdir=upper,workdir=work$OVERLAY" overlay root
mount --rbind /dev root/dev
mount --rbind /sys root/sys
mount -t proc none root/proc
mount -t tmpfs tmpfs root/run
mkdir -p root/var/lib/docker root/etc/docker
mount --bind "$DATA" root/var/lib/docker
ip link set lo up
"""
_START: Final = """\
cd root
pivot_root . .  # with chroot alone, `docker exec` would find the files of this machine instead of the container's
umount -l .
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin dockerd --cgroup-parent "/$NAME"
"""


class Machine:
    """One machine. `data` is the folder of its engine's images and layers."""

    namespaces: ClassVar[tuple[str, ...]] = ("--mount", "--net", "--pid")
    """Namespaces that a command on the machine enters."""

    overlay: ClassVar[str] = ""
    """Options of the mount of the root file system, after a comma."""

    settings: ClassVar[str] = ""
    """Commands before the engine starts, in the folder above its root."""

    def __init__(self, name: str, root: Path, data: Path) -> None:
        self.name = name
        self._run = Path("/run") / name
        self._data = data
        self._script = "set -eu\n" + _MOUNTS + self.settings + _START
        self._env = {
            **os.environ,
            "NAME": name,
            "RUN": str(self._run),
            "ROOT": str(root),
            "DATA": str(data),
            "OVERLAY": self.overlay,
        }
        self._programs: list[subprocess.Popen[bytes]] = []
        self.pid = 0

    def start(self) -> None:
        """Start the engine. RuntimeError, with the log's end, if it ends."""
        (self._run / "ram").mkdir(parents=True)
        self._data.mkdir(parents=True, exist_ok=True)
        outer = self.isolate("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", self._script)
        self.pid = int(wait_until(lambda: _child(outer.pid), "the engine is started", self.log))

        def answers() -> bool:
            if outer.poll() is not None:
                raise RuntimeError(f"the engine of {self.name} ended: {self.log()}")
            return self.attempt("docker", "info").returncode == 0

        wait_until(answers, "the engine answers", self.log)
        self.sweep()  # an earlier run may have been killed

    def isolate(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command in a network namespace of the machine's own."""
        shell.run("ip", "netns", "add", self.name)
        return self.spawn("nsenter", f"--net={shell.NETNS_DIR / self.name}", *argv)

    def sweep(self) -> None:
        """Remove every container."""
        self.attempt("sh", "-c", "docker rm --force $(docker ps --all --quiet)")

    def spawn(self, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a program that stop() ends."""
        with (self._run / "log").open("ab") as log:
            program = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd="/",
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def log(self) -> str:
        """Return the end of the engine's log."""
        return (self._run / "log").read_text(errors="replace")[-2000:]

    @property
    def root(self) -> Path:
        """The machine's root directory, as this one sees it."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def client(self) -> dict[str, str]:
        """Variables with which this machine's client of Docker reaches the engine."""
        return {"DOCKER_HOST": f"unix://{self.root}/run/docker.sock"}

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine and return its result."""
        enter = ("nsenter", f"--target={self.pid}", *self.namespaces, "--root", "--wd")
        path = ("env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
        command = (*enter, *path, *argv)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)

    def run(self, *argv: str) -> str:
        """Run a command on the machine, which must succeed, and return its output."""
        done = self.attempt(*argv)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def stop(self) -> None:
        """End all programs, and remove what start() made. The mounts go with the namespace."""
        if self.pid:
            self.sweep()
        for program in reversed(self._programs):
            program.kill()  # the engine is the first process of its namespace: everything in it ends with it
            program.wait()
        shell.attempt(("ip", "netns", "del", self.name))
        shutil.rmtree(self._run, ignore_errors=True)
        remove_cgroups(self.name)


def _child(pid: int) -> str:
    """Return the only child of a process; empty before it has one."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
