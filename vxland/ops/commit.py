"""The commit of this vxland. setup.py runs this file before anything is installed: the standard library alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_BUILT = _PACKAGE / "commit"
"""Written by setup.py into wheels and sdists."""

_DESCRIBE = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


@cache
def commit() -> str:
    """Return the commit that was built or is checked out, with `-dirty` after changes; "" if it is not known."""
    if _BUILT.is_file():
        return _BUILT.read_text(encoding="ascii").strip()
    top = _PACKAGE.parent
    if not (top / ".git").exists():  # an installation; a repository further up is another project's
        return ""
    import subprocess  # noqa: PLC0415  (a checkout alone needs it, and vxlandctl starts instantly)

    try:
        done = subprocess.run(_DESCRIBE, cwd=top, capture_output=True, check=True, text=True)  # noqa: S603  (PATH's git)
    except (OSError, subprocess.CalledProcessError):  # no git; or the checkout is somebody else's, which git refuses
        return ""
    return done.stdout.strip()
