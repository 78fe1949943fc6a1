"""A real etcd server for tests: one member on a free loopback port, its data in a temporary folder."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

_TRIES = 5  # another program may bind the free port first
_PEER = "http://127.0.0.1:1"  # unused in a cluster of one


class EtcdServer:
    """A member with its data in `folder`; `tls` has the PEM files `ca`, `cert` and `key`; `options` are etcd's own.

    With `config` start() writes the options to that file instead. `weak`: the health check accepts any certificate,
    because Python's defaults are under test.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        tls: Mapping[str, Path] | None = None,
        config: Path | None = None,
        weak: bool = False,
    ) -> None:
        self._config = config
        self._weak = weak
        self._more = ""
        self._folder = folder
        self._options = options
        self._tls = tls or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self, more: str = "") -> None:
        """Start it, on the port and with the data of its previous start. RuntimeError with its log.

        `more` are lines of YAML for the file of `config`.
        """
        self._more = more
        for _ in range(1 if self._port else _TRIES):
            self._port = self._port or free_port()
            if self._serves():
                return
        raise RuntimeError((self._folder / "log").read_text())

    def stop(self) -> None:
        """End it, by its pid."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(self._folder / "data")

    def ctl(self, *words: str, stdin: str | None = None) -> str:
        """Run one etcdctl command and return its standard output; CalledProcessError."""
        tls = [f"--{option}={self._tls[name]}" for option, name in _CTL_TLS if self._tls]
        return subprocess.run(
            ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", self.url, *tls, *words],
            check=True,
            capture_output=True,
            input=stdin,
            text=True,
        ).stdout

    def _serves(self) -> bool:
        """Return True once it serves; False if it ended instead."""
        command = ["etcd", "--data-dir", str(self._folder / "data"), "--unsafe-no-fsync", *self._options]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", "http://127.0.0.1:0", "--initial-advertise-peer-urls", _PEER]
        command += ["--initial-cluster", f"default={_PEER}"]
        command += ["--heartbeat-interval=20", "--election-timeout=100"]  # it waits one timeout before it elects itself
        if self._tls:
            command += [f"--{option}={self._tls[name]}" for option, name in _SERVER_TLS]
            command += ["--client-cert-auth"]
        if self._config is not None:
            pairs = (word.removeprefix("--").partition("=") for word in _joined(command[1:]))
            self._config.write_text("".join(f"{key}: {value}\n" for key, _, value in pairs) + self._more)
            command = ["etcd", "--config-file", str(self._config)]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while self._process.poll() is None:
            try:
                self._ask_health()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self._port = 0
        return False

    def _ask_health(self) -> None:
        """Query its health, which needs no user; OSError while it has no leader."""
        context = None
        if self._tls:
            context = ssl.create_default_context(cafile=self._tls["ca"])
            if self._weak:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.load_cert_chain(self._tls["cert"], self._tls["key"])
        with urlopen(f"{self.url}/health", timeout=5, context=context) as answer:  # noqa: S310  (our own URL)
            answer.read()


_CTL_TLS = (("cacert", "ca"), ("cert", "cert"), ("key", "key"))
_SERVER_TLS = (("trusted-ca-file", "ca"), ("cert-file", "cert"), ("key-file", "key"))


def _joined(words: list[str]) -> Iterator[str]:
    """Yield each option as --KEY=VALUE."""
    rest = iter(words)
    for word in rest:
        bare = word == "--unsafe-no-fsync"
        yield word if "=" in word else f"{word}=true" if bare else f"{word}={next(rest)}"


def free_port() -> int:
    """Return a free TCP port of loopback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(server: EtcdServer) -> Iterator[EtcdServer]:
    """Run the server until the end of the block."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
