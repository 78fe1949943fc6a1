"""Writes and renders pages: one HTML file each, from templates/, which loads nothing from anywhere.

Everything passed to a template is escaped. The page's own Content-Security-Policy names its style sheet and its script
by their hashes and forbids everything else, so even a hole in a template could not run or fetch anything.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vxland import __version__
from vxland.model.errors import ConfigError, StartError

_REMEDY = "name a file in a directory that exists and that you may write to"


def refuse_unwritable(option: str, path: Path) -> None:
    """Raise ConfigError if the page could not be written to `path`; an existing file keeps its contents."""
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as exc:
        raise ConfigError(option, str(path), f"{exc.strerror}: {_REMEDY}") from exc


def write(path: Path, text: str) -> None:
    """Write the page. StartError if that has become impossible in the meantime."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StartError(f"{path} cannot be written: {exc.strerror}", _REMEDY) from exc


def render(template: str, **view: object) -> str:
    """Return the page that a template of templates/ renders from `view`."""
    environment = _environment()
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    return environment.get_template(template).render(
        **view,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup(style),  # noqa: S704  (our own file; no input goes into it)
        script=Markup(script),  # noqa: S704  (as above)
        policy=Markup(policy),  # noqa: S704  (as above; the quotes are part of it)
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("vxland.lab.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(environment: Environment, name: str) -> str:
    loader = environment.loader
    return loader.get_source(environment, name)[0] if loader else ""


def _hash(text: str) -> str:
    """Return a source expression of the policy; W3C CSP3 section 2.3.1."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
