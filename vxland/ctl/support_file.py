"""The archive of `vxlandctl support` as a file or on standard output, and the summary of it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

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
    support.collect()
    archive = support.archive()
    if output == "-":
        _to_stdout(archive)
    else:
        _to_file(Path(output or f"{support.name}.tar.gz"), archive)
    where = output or f"{support.name}.tar.gz"
    taken = {name: len(content) for name, content in support.taken.items()}
    answer = {"archive": where, "bytes": len(archive), "taken": taken, "missing": support.missing}
    click.echo(json.dumps(answer) if as_json else _summary(shown(answer, _MAX_LEN)), err=output == "-")


def _to_stdout(archive: bytes) -> None:
    try:
        sys.stdout.buffer.write(archive)
        sys.stdout.buffer.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CtlError(f"the archive cannot be written: {exc.strerror}") from exc


def _to_file(path: Path, archive: bytes) -> None:
    """Write a file with mode 0600, whole or not at all. A link is replaced, not followed."""
    try:
        if path.exists() and not path.is_file():  # root could replace /dev/null
            raise CtlError(f"{path} is no file: choose another one with -o")
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".vxland-support.")  # of mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(archive)
            Path(scratch).replace(path)
        except BaseException:
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
    return "\n".join([*lines, f"{answer['archive']}: {answer['bytes']:,} bytes, for its owner alone. {_ABOUT}"])
