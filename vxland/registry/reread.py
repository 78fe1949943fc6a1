"""Credentials read from files, and read again when other programs replace the files.

The kubelet replaces a token every hour; cert-manager or an administrator replaces certificates. Each use checks whether
a file has changed, so that a new connection has the new credentials, as in Go's clients. While files are being replaced
they may be missing, incomplete or inconsistent. Then the last valid credentials stay in use, and each use tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import structlog

from vxland.model.errors import ConfigError

MAX_FILE: Final = 4 << 20
"""Bytes of a file; the bundle of all public authorities has 250 kB."""

log = structlog.get_logger()


class FromFiles(Protocol):
    """A value that knows the files it was read from."""

    @property
    def files(self) -> Mapping[Path, object]:
        """The files, each with its state() before it was read."""
        ...


T = TypeVar("T", bound=FromFiles)


class ReReadFiles(Generic[T]):
    """The value that `read` returns, read again when its files change. The first read is now; ConfigError."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._value = read()
        self._problem = ""

    def get(self) -> T:
        """Return the value of the files as they are now, or as they were last valid."""
        if any(state(path) != then for path, then in self._value.files.items()):
            self.read_again()
        return self._value

    def read_again(self) -> bool:
        """Read the files, and return whether they are valid. Each problem is logged once."""
        try:
            self._value = self._read()
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
    """Return the state() of files. Call it before reading them, or a change in between is missed."""
    return {path: state(path) for path in paths}


def state(path: Path) -> object:
    """Return a value that changes when the file is replaced or written; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def read(path: Path, key: str = "") -> bytes:
    """Return a file's content; ConfigError of `key`, or of the file's name without a key."""
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
