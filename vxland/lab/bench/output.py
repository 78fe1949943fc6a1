"""The folder for the results of a benchmark."""

from __future__ import annotations

from pathlib import Path

from vxland.model.errors import StartError


def prepare(output: Path) -> None:
    """Make the directory first: a benchmark whose result cannot be written must not start."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / ".writable").touch()
        (output / ".writable").unlink()
    except OSError as exc:
        raise StartError(f"{output} cannot be written: {exc.strerror}", "give another directory with --output") from exc
