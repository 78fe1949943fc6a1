"""`vxlandctl support`: one archive with what others need to help with this node, and nothing secret.

Each part is taken by itself, so what fails leaves the rest. The daemon answers for itself; `vxland check` reads the
configuration; the kernel's state comes from files of /proc and from programs, as far as they are installed. Every text
passes archived() of model/secrets.py before it is kept. Sizes are bounded by MAX_PART and MAX_TOTAL, the time by
MAX_S and the patience with each program and answer.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from vxland import __version__
from vxland.ctl.client import CtlError, DaemonClient
from vxland.ctl.support_parts import (
    DEVICES,
    FILES,
    PROGRAMS,
    SYSCTLS,
    Part,
    device_programs,
    nft_tables,
    relevant_rules,
)
from vxland.model.secrets import archived, archived_json

PYTHON: Final = (sys.executable, "-P")
"""Without the current directory, which others may write to."""

MAX_PART: Final = 8 << 20
"""Bytes of one part; the peers of 5,000 nodes take 3 MB."""

MAX_TOTAL: Final = 32 << 20
MAX_S: Final = 60.0
PROGRAM_S: Final = 5.0
CHECK_S: Final = 20.0
"""`vxland check --here` asks a store and loads programs into the kernel."""

_CUT: Final = b"\n(cut: the rest is too long)\n"
_COMPLAINT: Final = 1000  # bytes of what a program that fails prints
_VALUE: Final = 4096  # bytes of a sysctl: the kernel refuses to write megabytes of one
_MAX_DEVICES: Final = 8
_ANSWERS: Final = ("status", "stats", "drops", "plan")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Support:
    """One collection: `taken` has each part's content by name, `missing` the reason for each that is not there."""

    def __init__(self, daemon: DaemonClient, config: Path) -> None:
        self.taken: dict[str, bytes] = {}
        self.missing: dict[str, str] = {}
        self._daemon = daemon
        self._config = config
        self._ends = time.monotonic() + MAX_S
        self._room = MAX_TOTAL
        self.node = _UNFIT.sub("_", platform.node())[:64] or "node"
        self.time = time.strftime("%Y%m%d-%H%M%SZ", time.gmtime())

    @property
    def name(self) -> str:
        """The name of the archive without its suffix, which is that of the folder in it."""
        return f"vxland-support-{self.node}-{self.time}"

    def collect(self) -> None:
        """Take everything that can be had."""
        status: Any = None
        for name in _ANSWERS:
            answer = self._take(f"{name}.json", partial(self._daemon.ask, name))
            status = answer if name == "status" else status
        self._take("peers.json", lambda: [peer for some in self._daemon.listed("peers") for peer in some])
        self._take_own_view()
        self._take("check.json", self._check)
        self._take("versions.json", _versions)
        self._take("kernel/sysctls.txt", lambda: _values(SYSCTLS, Path("/proc/sys")))
        self._take("kernel/devices.txt", lambda: _values(DEVICES, Path("/sys")))
        for name, path in FILES.items():
            self._take(f"kernel/{name}.txt", partial(_read, Path(path)))
        for part in PROGRAMS:
            self._run(part)
        for part in device_programs(_devices(status)):
            self._run(part)
        self._take_firewall()

    def archive(self) -> bytes:
        """Return the archive, with a manifest of it."""
        about = {
            "made": self.time,
            "node": self.node,
            "vxlandctl": __version__,
            "taken": {name: len(content) for name, content in self.taken.items()},
            "missing": self.missing,
        }
        files = {"manifest.json": _json(about), **self.taken}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"{self.name}/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()

    def _take(self, name: str, get: Callable[[], Any]) -> Any:  # noqa: ANN401  (as JSON has it)
        """Keep what `get` returns: a text, a value for JSON, or bytes without secrets; return it, or None.

        If it fails, or there is no time or space left, the reason is noted.
        """
        if time.monotonic() > self._ends:
            self.missing[name] = f"left out: the others took {MAX_S:.0f} s"
            return None
        try:
            found = get()
        except (CtlError, OSError, ValueError, LookupError, TypeError) as exc:
            self.missing[name] = archived(_reason(exc))
            return None
        if isinstance(found, bytes):
            content = found
        else:
            content = archived(found).encode(errors="backslashreplace") if isinstance(found, str) else _json(found)
        if len(content) > MAX_PART:
            content = content[: MAX_PART - len(_CUT)] + _CUT
        if len(content) > self._room:
            self.missing[name] = f"left out: the others have {MAX_TOTAL >> 20} MiB"
            return None
        self._room -= len(content)
        self.taken[name] = content
        return found

    def _take_own_view(self) -> None:
        """Take the daemon's settings, versions, features and events; the events from the journal without a daemon."""
        try:
            answer = self._daemon.ask("support")
        except CtlError as exc:
            reason = archived(str(exc))
            self.missing |= dict.fromkeys(
                ("settings.json", "daemon-versions.json", "features.json", "host.json"), reason
            )
            words = ("journalctl", "--unit", "vxland*", "--lines", "1000", "--no-pager", "--output", "short-iso")
            self._run(Part("events.txt", words))
            return
        self._take("settings.json", lambda: answer["settings"])
        self._take("daemon-versions.json", lambda: answer["versions"])
        self._take("features.json", lambda: answer["features"])
        self._take("host.json", lambda: answer["host"])
        self._take("events.txt", lambda: b"".join(_json(each, None) for each in answer["events"]))

    def _check(self) -> object:
        if not self._config.exists():
            raise OSError(f"there is no {self._config}: name the file with --config")
        words = ("check", "--here", "--json", "--config", str(self._config))
        output = run((*PYTHON, "-m", "vxland", *words), self._left(CHECK_S), (0, 2))
        return json.loads(output)

    def _run(self, part: Part) -> None:
        self._take(part.name, lambda: run(part.argv, self._left(PROGRAM_S)))

    def _left(self, patience_s: float) -> float:
        """Return the time that a program may take, at most `patience_s`."""
        return min(patience_s, max(1.0, self._ends - time.monotonic()))

    def _take_firewall(self) -> None:
        """Take our own tables of nf_tables, the hooks of others, and the lines of iptables that concern the overlay."""
        tables = self._take("kernel/nft-tables.txt", lambda: run(("nft", "list", "tables"), self._left(PROGRAM_S)))
        for family, table in nft_tables(tables or ""):
            name = f"kernel/nft-{_UNFIT.sub('_', family)}-{_UNFIT.sub('_', table)}.txt"
            self._run(Part(name, ("nft", "list", "table", family, table)))
        for program in ("iptables-save", "ip6tables-save"):
            self._take(f"kernel/{program}.txt", partial(self._rules, program))

    def _rules(self, program: str) -> str:
        return relevant_rules(run((program,), self._left(PROGRAM_S)))


def run(argv: Sequence[str], patience_s: float, codes: Iterable[int] = (0,)) -> str:
    """Return the output of a program, at most MAX_PART bytes. OSError if it is missing, fails or takes too long."""
    command = " ".join(argv)
    try:
        process = subprocess.Popen(  # noqa: S603  (programs by name, without a shell)
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise OSError(f"{argv[0]} is not installed") from None
    with process, killed_after(process, patience_s) as expired:
        output = process.stdout.read(MAX_PART + 1) if process.stdout is not None else b""
        if len(output) > MAX_PART:
            process.kill()
        _, complaint = process.communicate()
    if expired.is_set():
        raise OSError(f"`{command}` did not end within {patience_s:.0f} s")
    if process.returncode not in codes and len(output) <= MAX_PART:
        words = " ".join(complaint[:_COMPLAINT].decode(errors="replace").split())
        raise OSError(f"`{command}` failed: {words or f'exit code {process.returncode}'}")
    return output.decode(errors="replace")


@contextmanager
def killed_after(process: subprocess.Popen[bytes], patience_s: float) -> Iterator[threading.Event]:
    """Kill the process after this time, unless the block has ended before; the event says that it happened."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(patience_s, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _json(value: object, indent: int | None = 1) -> bytes:
    return json.dumps(archived_json(value), indent=indent).encode() + b"\n"


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc) or type(exc).__name__


def _versions() -> object:
    """Return the versions of this program and of what it runs on."""
    release = {}
    with suppress(OSError):
        release = platform.freedesktop_os_release()
    kernel = " ".join(platform.uname())
    return {"vxlandctl": __version__, "python": sys.version, "kernel": kernel, "distribution": release}


def _values(patterns: Iterable[str], root: Path) -> str:
    """Return the small files that patterns name, each as a line `NAME = VALUE`."""
    lines = []
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            try:
                value = _read(path, _VALUE)
            except OSError as exc:
                value = f"({exc.strerror})"
            lines.append(f"{path.relative_to(root)} = {value.strip()}\n")
    return "".join(lines)


def _read(path: Path, limit: int = MAX_PART) -> str:
    with path.open("rb") as file:
        return file.read(limit).decode(errors="replace")


def _devices(status: Any) -> list[str]:  # noqa: ANN401  (as JSON has it)
    """Return the overlay devices and their underlays: the daemon's, or else those that look like it."""
    if isinstance(status, dict) and status.get("planes"):
        return [name for plane in status["planes"] for name in (plane["device"], plane["underlay"]["interface"])]
    names = [path.name for path in Path("/sys/class/net").glob("flannel*")]
    with suppress(OSError):
        routes = (line.split() for line in _read(Path("/proc/self/net/route")).splitlines()[1:])
        names += [fields[0] for fields in routes if len(fields) > 1 and fields[1] == "00000000"]
    return names[:_MAX_DEVICES]
