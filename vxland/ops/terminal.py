"""Parts of both programs: groups whose usage errors are safe for a terminal, and the option --version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from vxland import __version__
from vxland.model.text import printable
from vxland.ops.commit import commit

_MAX_LEN: Final = 1000
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
    """A click group that keeps control characters of arguments out of usage errors."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # noqa: ANN401  (as click has it)
        """Parse the arguments before the name of the command."""
        with _shown():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (as click has it)
        """Parse the command's arguments, and call it."""
        with _shown():
            return super().invoke(ctx)


@contextmanager
def _shown() -> Iterator[None]:
    try:
        yield
    except click.ClickException as exc:
        exc.message = printable(exc.message, _MAX_LEN)  # type: ignore[misc]  # click declares it final
        raise
