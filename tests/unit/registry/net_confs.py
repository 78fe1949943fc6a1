"""Network configurations for the tests of net_conf."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vxland.model.errors import ConfigError
from vxland.registry.net_conf import NetConf, parse

VXLAN = {"Type": "vxlan"}


def made(*, pools: bool = True, **keys: Any) -> NetConf:  # noqa: ANN401  (what JSON can hold)
    """Return the NetConf of an object with these keys, by default with a network and a backend."""
    return parse(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), "net-conf.json", pools=pools)


def refused(text: str, *, pools: bool = True) -> ConfigError:
    """Return the error of a text."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "net-conf.json", pools=pools)
    return caught.value


def refused_with(*, pools: bool = True, **keys: Any) -> ConfigError:  # noqa: ANN401  (what JSON has)
    """Return the error of an object with these keys."""
    return refused(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), pools=pools)
