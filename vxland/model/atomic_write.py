"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_directories(path: Path) -> None:
    """Create a directory and its missing parents with mode 0755, independently of the umask. OSError."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)


def atomic_write(path: Path, text: str, mode: int) -> None:
    """Write ASCII `text` to `path` with `mode`; missing directories get 0755, independently of the umask. OSError."""
    make_directories(path.parent)
    # Beside the target, because rename(2) is atomic only within a file system.
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            os.fchmod(handle, mode)
            file.flush()
            os.fsync(handle)  # otherwise a power failure may leave an empty file
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
