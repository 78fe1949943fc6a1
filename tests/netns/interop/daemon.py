"""A vxland process in a namespace, with its log and events, and the service manager that may start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

from tests.patience import PATIENCE_S
from vxland.lab import shell

from .ns import Ns, wait_until

Gear: TypeAlias = Literal["compiled", "interpreted"]

ROOT: Final = Path(__file__).parents[3]


def plain(said: str) -> str:
    """Return the output of a vxland with `--log-format json`, with `fatal` events as plain text."""
    lines = []
    for line in said.splitlines():
        event = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        lines.append(f"vxland: {event['error']}" if event.get("event") == "fatal" else line)
    return "\n".join(lines)


class ServiceManager(Protocol):
    """A service manager, such as that of manager.py."""

    kept: list[tuple[str, int]]

    def launcher(self) -> tuple[str, ...]:
        """Return the words before a service's command line."""
        ...

    def environment(self) -> dict[str, str]:
        """Return a service's additional environment."""
        ...


class Daemon:
    """A vxland in a namespace; its events are read from its log."""

    def __init__(self, ns: Ns, directory: Path, gear: Gear) -> None:
        self.ns = ns
        self.gear = gear
        self.directory = directory
        self.directory.mkdir(exist_ok=True)
        self.path = self.directory / "vxland.yaml"
        self.subnet_file = self.directory / "subnet.env"
        self.log = self.directory / "log"
        self.settings: dict[str, dict[str, Any]] = {}
        self.manager: ServiceManager | None = None
        self.program: tuple[str, ...] = ("-m", "vxland")
        """The words for Python that run vxland."""
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def running(self) -> bool:
        """True from start() until stop() has waited for its end."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def write(self) -> None:
        """Write the settings to the file; JSON is YAML too."""
        self.path.write_text(json.dumps(self.settings))

    def command(self, *options: str) -> tuple[str, ...]:
        """Return the command `vxland run` inside the namespace, with the file and more options."""
        run = ("run", "-c", str(self.path), "--subnet-file", str(self.subnet_file), "--log-format", "json")
        return self.vxland(*run, *options)

    def vxland(self, *words: str) -> tuple[str, ...]:
        """Return a vxland command inside the namespace, in the daemon's gear."""
        gear = f"VXLAND_PURE={int(self.gear == 'interpreted')}"
        return (*shell.exec_in(self.ns.name, "env", gear), sys.executable, *self.program, *words)

    def launch(self) -> None:
        """Write the settings and start the daemon, without waiting."""
        self.write()
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (*(self.manager.launcher() if self.manager else ()), *self.command()),
                cwd=ROOT,
                env={
                    **os.environ,
                    "STATE_DIRECTORY": str(self.directory),  # each test has its own state
                    **(self.manager.environment() if self.manager else {}),
                },
                pass_fds=[fd for _, fd in self.manager.kept] if self.manager else (),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first event of that name since the daemon was started."""
        return wait_until(lambda: self.events(event) if self._alive() else [], f"vxland's {event}", self.said)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon, if it runs; return its exit code, negative for a signal."""
        if self.running:
            self.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the daemon to end, if it was started; return its exit code, negative for a signal."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _alive(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        return True

    def said(self) -> str:
        """Return the daemon's log since its latest start."""
        return self.log.read_bytes()[self._log_from :].decode(errors="replace")

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return its events of these names, in order."""
        found = []
        for line in self.said().splitlines(keepends=True):
            if line.endswith("\n"):
                with suppress(json.JSONDecodeError):  # a plain text line; said() shows it
                    event = json.loads(line)
                    if event.get("event") in names:
                        found.append(event)
        return found
