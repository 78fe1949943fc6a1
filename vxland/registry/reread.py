"""What is made of files that others replace: keys, certificates, tokens, passwords.

The kubelet replaces a token every hour, cert-manager or an administrator certificates. Each use looks whether a file is
another one by now, so that a new connection has the new credentials, as in Go's clients. While files are being
replaced they may be missing, half written or not fit together: what was made last is used on, and each use tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import structlog

from vxland.model.errors import ConfigError

MAX_FILE: Final = 4 << 20
"""Bytes of a file that is read; the bundle of all public authorities has 250 kB."""

log = structlog.get_logger()


class Made(Protocol):
    """What was made, which knows what of."""

    @property
    def files(self) -> Mapping[Path, object]:
        """The files it was made of, with their state() before they were read."""
        ...


T = TypeVar("T", bound=Made)


class ReReadFiles(Generic[T]):
    """What `make` makes of files, made again when they change. The first time is now, and may raise ConfigError."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made = make()
        self._problem = ""

    def get(self) -> T:
        """What the files say now, or said when they could be read last."""
        if any(state(path) != then for path, then in self._made.files.items()):
            self.renew()
        return self._made

    def renew(self) -> bool:
        """Make it again; whether the files could be used. What is wrong with them is logged once."""
        try:
            self._made = self._make()
        except ConfigError as exc:
            if str(exc) != self._problem:
                log.warning("credentials_unreadable", key=exc.key, value=exc.value, remedy=exc.remedy)
            self._problem = str(exc)
            return False
        if self._problem:
            log.info("credentials_read_again")
        self._problem = ""
        return True


def states(paths: Iterable[Path]) -> dict[Path, object]:
    """The state() of files; to be taken before they are read, or a change meanwhile would not show."""
    return {path: state(path) for path in paths}


def state(path: Path) -> object:
    """What changes when a file is replaced or written; None while it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def read(path: Path, key: str = "") -> bytes:
    """A file's content; ConfigError of `key`, or else of its name."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as exc:
        raise _refused(path, key, exc.strerror or str(exc), "name a file that can be read") from exc
    if len(content) > MAX_FILE:
        raise _refused(path, key, "too long", f"name a file of at most {MAX_FILE} bytes")
    return content


def _refused(path: Path, key: str, reason: str, remedy: str) -> ConfigError:
    return ConfigError(key, str(path), f"{remedy}: {reason}") if key else ConfigError(str(path), reason, remedy)
