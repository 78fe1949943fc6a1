"""Client of the daemon's API socket; ops/api_server.py describes the protocol."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from vxland.model.errors import VxlandError

DEFAULT_SOCKET = Path("/run/vxland/control.sock")
INSTANCE_SOCKET = "/run/vxland-{}/control.sock"  # RuntimeDirectory= of vxland@.service
ANSWER_S = 5.0  # a node of 5,000 peers takes 0.1 s
RELOAD_S = 60.0  # the daemon reads the file again and updates its planes
_CREDENTIALS = "3i"  # struct ucred: pid, uid, gid


class CtlError(VxlandError):
    """A failure in place of an answer; `code` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class DaemonClient:
    """The daemon behind the socket at `path`. Every method may raise CtlError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, command: str, **args: object) -> Any:  # noqa: ANN401  (as JSON has it)
        """Return the answer to a command."""
        with closing(self._answers("result", command, args)) as answers:
            return next(answers)

    def stream(self, command: str, **args: object) -> Generator[Any]:
        """Yield the items of a stream as they come; closing the iterator ends it in the daemon too."""
        return self._answers("item", command, args)

    def listed(self, command: str) -> Generator[Any]:
        """Yield the items of a stream that ends by itself, and is not silent meanwhile."""
        return self._answers("item", command, {}, ANSWER_S)

    def _answers(
        self, kind: str, command: str, args: dict[str, object], silent_s: float | None = None
    ) -> Generator[Any]:
        request = json.dumps({"command": command, "args": args}).encode() + b"\n"
        with closing(self._connected()) as sock, sock.makefile("rb") as lines:
            sock.settimeout(RELOAD_S if command == "reload" else ANSWER_S)
            try:
                with suppress(BrokenPipeError):  # it may refuse before it reads
                    sock.sendall(request)
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise CtlError(answer["error"], 2 if answer["usage"] else 1)
                    if "end" in answer:
                        return
                    if kind == "item":
                        sock.settimeout(silent_s)  # None: a stream that has begun may be silent for long
                    yield answer[kind]
            except TimeoutError as exc:
                raise self._silent(sock) from exc
            except (OSError, ValueError, LookupError, TypeError) as exc:
                raise self._lost() from exc
        raise self._lost()

    def _connected(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(self.path))
        except (TimeoutError, BlockingIOError) as exc:  # EAGAIN: too many clients wait already
            sock.close()
            raise self._silent() from exc
        except OSError as exc:
            sock.close()
            remedy = {
                FileNotFoundError: "start vxland, or name its socket: --socket PATH",
                ConnectionRefusedError: "that vxland is dead: start it again",
                PermissionError: "be root, or join the group vxland",
            }.get(type(exc), "see control.socket in the daemon's configuration, and --socket")
            raise CtlError(f"{self.path}: {exc.strerror or exc}: {remedy}") from exc
        return sock

    def _silent(self, sock: socket.socket | None = None) -> CtlError:
        """Return the error for a daemon that hangs; a connected socket has its process id."""
        who = "the daemon"
        if sock is not None:
            size = struct.calcsize(_CREDENTIALS)
            pid, *_ = struct.unpack(_CREDENTIALS, sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            who = f"the daemon, pid {pid},"
        return CtlError(f"{self.path}: {who} does not answer: it hangs, is stopped or very busy: see its log")

    def _lost(self) -> CtlError:
        return CtlError(f"{self.path}: the daemon went away, or cut this client off: see its log")
