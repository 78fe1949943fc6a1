"""A Docker engine in its own network namespace, which slirp4netns connects to the outside.

Interfaces, routes, firewall rules and ip_forward of the machine do not change. Images and layers are kept in
build/docker between runs; containers, networks and volumes are not.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.installed import ROOT
from vxland.lab import shell

T = TypeVar("T")

_DEADLINE_S: Final = 120.0
_STOP_S: Final = 30.0
BUILD_S: Final = 1800.0
"""Timeout of a command: compiling the data path takes 50 s on an idle machine with two CPUs."""


def wait_until(condition: Callable[[], T], what: str, hint: Callable[[], str] = str) -> T:
    """Return the result of `condition()` once it is true. AssertionError, with the hint, if it never is."""
    end = time.monotonic() + _DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain: {what}\n{hint()}"
        time.sleep(0.2)
    return found


class Engine:
    """The engine, and the client's commands for it. `plugins` is the folder of the client's plugins."""

    def __init__(self, scratch: Path, plugins: Path) -> None:
        self.name = f"vxdocker-{os.getpid()}"
        self._run = Path("/run") / self.name  # a socket's path has at most 107 characters
        self._data = scratch / "data"
        self._plugins = plugins
        self._programs: list[subprocess.Popen[bytes]] = []
        self.env = {
            **{key: value for key, value in os.environ.items() if key not in {"BASE_IMAGE", "DOCKER_CONTEXT"}},
            "DOCKER_HOST": f"unix://{self._run}/docker.sock",
            "DOCKER_CONFIG": str(self._run / "config"),
            "COMPOSE_PROJECT_NAME": "vxland",
        }

    def start(self) -> None:
        """Make the namespace and start both programs; RuntimeError, with the log's end, if the engine ends."""
        (self._run / "config").mkdir(parents=True)
        (self._run / "config" / "cli-plugins").symlink_to(self._plugins)
        shell.run("ip", "netns", "add", self.name)
        shell.run("ip", "-n", self.name, "link", "set", "lo", "up")
        ready, notify = os.pipe()
        way_out = ("slirp4netns", "--configure", "--mtu=1500", "--disable-host-loopback", "--netns-type=path")
        self._spawn(*way_out, f"--ready-fd={notify}", str(shell.NETNS_DIR / self.name), "tap0", fds=(notify,))
        os.close(notify)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):
                raise RuntimeError(f"slirp4netns did not start: {self._log('slirp4netns')}")
        engine = self._spawn(
            *("nsenter", f"--net={shell.NETNS_DIR / self.name}", "dockerd", "-H", self.env["DOCKER_HOST"]),
            *("--data-root", str(self._data), "--exec-root", str(self._run / "exec")),
            *("-p", str(self._run / "dockerd.pid"), "--cgroup-parent", f"/{self.name}"),
        )

        def answers() -> bool:
            if engine.poll() is not None:
                raise RuntimeError(f"dockerd ended: {self._log('nsenter')}")
            return self.attempt("info").returncode == 0

        wait_until(answers, "the engine answers", lambda: self._log("nsenter"))
        self.sweep()  # an earlier run may have been killed
        if not self.knows_bpf:
            self.env["COMPOSE_FILE"] = "compose.yaml:deploy/compose/without-bpf.yaml"

    @property
    def knows_bpf(self) -> bool:
        """True if the engine can grant CAP_BPF. It refuses unknown capabilities before it looks for the image."""
        return "unknown capability" not in self.attempt("create", "--pull=never", "--cap-add=BPF", "none:none").stderr

    def _spawn(self, *argv: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        with (self._run / f"{argv[0]}.log").open("wb") as log:
            program = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds, start_new_session=True
            )
        self._programs.append(program)
        return program

    def _log(self, program: str) -> str:
        return (self._run / f"{program}.log").read_text(errors="replace")[-2000:]

    def sweep(self) -> None:
        """Remove every container, network and volume."""
        if found := self.attempt("ps", "-aq").stdout.split():
            self.attempt("rm", "-f", *found)
        self.attempt("network", "prune", "-f")
        self.attempt("volume", "prune", "-f")

    def stop(self) -> None:
        """End all programs, and remove what start() made."""
        if len(self._programs) > 1:
            self.sweep()
        for program in reversed(self._programs):
            program.terminate()
            try:
                program.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
        shell.attempt(("ip", "netns", "del", self.name))
        for mount in sorted(_mounts_below(self._run), reverse=True):
            shell.attempt(("umount", "-l", mount))
        shutil.rmtree(self._run, ignore_errors=True)
        remove_cgroups(self.name)

    def attempt(self, *argv: str, stdin: str = "", timeout_s: float = BUILD_S) -> subprocess.CompletedProcess[str]:
        """Run a command of the client and return its result."""
        command = ("docker", *argv)
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s, env=self.env, cwd=ROOT
        )

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command of the client, which must succeed, and return its output."""
        done = self.attempt(*argv, stdin=stdin)
        assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def compose(self, *argv: str) -> str:
        """Run `docker compose` for the shipped file and return its output."""
        return self.run("compose", *argv)

    def has_image(self, name: str) -> bool:
        """Return whether the image exists."""
        return self.attempt("image", "inspect", name).returncode == 0

    def inspect(self, *names: str) -> Any:  # noqa: ANN401  (as JSON has it)
        """Return the engine's description of a container, image or network."""
        return json.loads(self.run("inspect", *names))[0]

    def inside(self, job: Callable[[], T]) -> T:
        """Run `job` where published ports are those of 127.0.0.1, and return its result."""
        return shell.inside(self.name, job)


def cgroups(name: str) -> list[Path]:
    """Return an engine's control group in each hierarchy."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(name), *root.glob(f"*/{name}")]  # version 2, and 1


def remove_cgroups(name: str) -> None:
    """Remove an engine's control groups, as soon as the processes of a build that was killed have ended."""

    def empty() -> bool:
        try:
            for group in cgroups(name):
                for folder, _, _ in os.walk(group, topdown=False):
                    Path(folder).rmdir()
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            return False
        return True

    wait_until(empty, f"the control groups of {name} are empty")


def _mounts_below(folder: Path) -> list[str]:
    mounts = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return [mount for mount in mounts if mount.startswith(f"{folder}/")]
