"""Network configurations for the tests of net_conf."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vxland.model.errors import ConfigError
from vxland.registry.net_conf import NetConf, parse

VXLAN = {"Type": "vxlan"}


def made(*, pools: bool = True, **keys: Any) -> NetConf:  # noqa: ANN401  (what JSON can hold)
    """NetConf of an object with these keys; network and backend are given where they are not among them."""
    return parse(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), "net-conf.json", pools=pools)


def refused(text: str, *, pools: bool = True) -> ConfigError:
    """Why a text is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "net-conf.json", pools=pools)
    return caught.value


def refused_with(*, pools: bool = True, **keys: Any) -> ConfigError:  # noqa: ANN401  (what JSON has)
    """Why an object with these keys is refused."""
    return refused(json.dumps({"Network": "10.244.0.0/16", "Backend": VXLAN} | keys), pools=pools)
