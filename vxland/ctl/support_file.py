"""The archive of `vxlandctl support` as a file or on standard output, and the summary of it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from vxland.ctl.client import CtlError, DaemonClient
from vxland.ctl.support import Support
from vxland.model.text import shown

_MAX_LEN = 500  # characters of a reason that the summary shows
_ABOUT = (
    "It has addresses, MACs, and names of nodes and interfaces. It has no payload, and no passwords, keys and tokens "
    "that vxland knows or that show by their form."
)


def write(daemon: DaemonClient, config: Path, output: str | None, *, as_json: bool) -> None:
    """Collect everything, and write it to `output` (None: a file in the current directory; -: standard output)."""
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal: name a file with -o, or redirect it")
    support = Support(daemon, config)
    where = output or f"{support.name}.tar.gz"
    with _stdout() if where == "-" else _replaced(Path(where)) as file:
        support.collect()
        archive = support.archive()
        file.write(archive)
    taken = {name: len(content) for name, content in support.taken.items()}
    answer = {"archive": where, "bytes": len(archive), "taken": taken, "missing": support.missing}
    click.echo(json.dumps(answer) if as_json else _summary(shown(answer, _MAX_LEN)), err=output == "-")


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CtlError(f"the archive cannot be written: {exc.strerror}") from exc


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file with mode 0600 that becomes `path` if the block succeeds. A link is replaced, not followed."""
    try:
        if path.exists() and not path.is_file():  # root could replace /dev/null
            raise CtlError(f"{path} is no file: choose another one with -o")
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".vxland-support.")  # of mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            Path(scratch).replace(path)
        except BaseException:  # Ctrl-C too
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise CtlError(f"{path} cannot be written: {exc.strerror}: choose another file with -o") from exc


def _summary(answer: Any) -> str:  # noqa: ANN401  (as JSON has it)
    taken, reasons = answer["taken"], dict[str, list[str]]()
    for name, reason in answer["missing"].items():
        reasons.setdefault(reason, []).append(name)
    width = max(map(len, taken), default=0)
    lines = [f"{name:<{width}}  {size:>9,} bytes" for name, size in taken.items()]
    lines += [f"not taken: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    where = "standard output" if answer["archive"] == "-" else f"{answer['archive']}, for its owner alone"
    return "\n".join([*lines, f"{answer['bytes']:,} bytes, to {where}. {_ABOUT}"])
