"""Parts of both programs: groups whose errors are safe for a terminal, --version, and `completion`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from vxland import __version__
from vxland.model.text import printable
from vxland.ops.commit import commit

_MAX_LEN: Final = 1000
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
F = TypeVar("F", bound=Callable[..., Any])


def version_option(program: str) -> Callable[[F], F]:
    """Return the option --version, which shows the commit too: "vxland, version 0.1.0, commit 0123456789ab"."""

    def show(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            known = commit()
            click.echo(f"{program}, version {__version__}{f', commit {known}' if known else ''}")
            context.exit()

    return click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and the commit, and exit.",
    )


class Group(click.Group):
    """A click group that keeps control characters of arguments out of usage errors, and that survives a full disk."""

    def main(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  (as click has it)
        """Run the program. Exit 1 with one line if standard output cannot be written."""
        try:
            return super().main(*args, **extra)
        except OSError as exc:
            if exc.errno not in _FULL or exc.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer
            words = f"the output cannot be written: {exc.strerror}: free space there, or send it to another place"
            click.echo(f"{self.name}: {words}", err=True)
            sys.exit(1)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # noqa: ANN401  (as click has it)
        """Parse the arguments before the name of the command."""
        with _shown():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (as click has it)
        """Parse the command's arguments, and call it."""
        with _shown():
            return super().invoke(ctx)


def completion(program: str) -> click.Command:
    """Return the command that prints a completion script for a program with click commands."""
    variable = f"_{program.upper()}_COMPLETE"
    enable = f'In ~/.bashrc: `eval "$({program} completion bash)"`.'

    @click.command("completion", help=f"Print a completion script for the shell. {enable}")
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def command(ctx: click.Context, shell: str) -> None:
        from click.shell_completion import get_completion_class  # noqa: PLC0415  (nothing that other commands load)

        found = get_completion_class(shell)
        if found is not None:
            click.echo(found(ctx.find_root().command, {}, program, variable).source())

    return command


@contextmanager
def _shown() -> Iterator[None]:
    try:
        yield
    except click.ClickException as exc:
        exc.message = printable(exc.message, _MAX_LEN)  # type: ignore[misc]  # click declares it final
        raise
