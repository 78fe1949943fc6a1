"""flanneld's command lines in tests."""

from __future__ import annotations

import pytest

from vxland.cli.flanneld import parse
from vxland.config import Settings
from vxland.model.errors import FlagError, InvalidConfigError

KUBE = "--kube-subnet-mgr"


def at(settings: Settings, path: str) -> object:
    """Return the value of a setting such as `etcd.prefix`."""
    section, key = path.split(".")
    value = getattr(getattr(settings, section), key)
    return value.get_secret_value() if key == "password" else value


def refused(*argv: str, **environ: str) -> str:
    """Return why a command line is refused, one line for each problem."""
    with pytest.raises((FlagError, InvalidConfigError)) as caught:
        parse(argv, environ)
    return str(caught.value)


HELP = "'vxland flanneld --help' lists those of flanneld"
