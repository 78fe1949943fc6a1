"""Errors of a store of leases. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Final

from vxland.model.errors import VxlandError
from vxland.model.secrets import masked
from vxland.model.text import printable

MAX_ERROR: Final = 600
"""Characters of an error's text: a server may send megabytes of it."""

_MAX_READ: Final = 1 << 16
"""Characters of a text in which secrets are looked for: far more than can be shown."""

MAX_ENTRIES: Final = 1 << 15
"""Entries of a store that vxland keeps, quarantined ones included: twice the largest cluster that was tested."""


class StoreError(VxlandError):
    """A store did not do what it was asked to do; most succeed when they are asked again.

    The text is one line of at most MAX_ERROR characters, whatever the server sent.
    """

    retry_after_s: float = 0.0
    """The least time to wait before the next try, if the store named one."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(masked(text[:_MAX_READ]), MAX_ERROR))  # a secret that is cut would not be found


class TooLargeError(StoreError):
    """An answer, or a line of a stream, is larger than its Bounds."""


class OverfullError(StoreError):
    """A store has more than MAX_ENTRIES entries. The known leases stay in force."""

    def __init__(self) -> None:
        super().__init__(f"it has more than {MAX_ENTRIES} entries: delete those of nodes that are gone")


def cause_of(exc: BaseException) -> str:
    """Return why a request failed. aiohttp names an SSL context for plain http too; that is left out."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc).replace(" ssl:default", "") or type(exc).__name__


@contextmanager
def guarded() -> Iterator[None]:
    """Raise StoreError for every exception inside that is not a VxlandError.

    An answer can raise anything in code that did not expect it, and a store's content must never end the node.
    """
    try:
        yield
    except VxlandError:
        raise
    except Exception as exc:
        frame = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{PurePath(frame.filename).name}:{frame.lineno}"
        raise StoreError(f"the store's answer caused {type(exc).__name__}: {exc} ({where})") from exc
