"""Groups of commands whose usage errors are safe for a terminal, even if they quote an argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from vxland.model.text import printable

_MAX_LEN: Final = 1000


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
