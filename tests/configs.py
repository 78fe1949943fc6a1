"""Valid configuration files with static peers, and the problems of others."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from vxland.config import parse
from vxland.model.errors import InvalidConfigError

Problem = tuple[str, object, str]

MAC1, MAC2, MAC3 = "ce:5f:f6:73:cf:b9", "3a:87:cf:81:6a:ce", "02:00:00:00:00:03"
PEERS = [
    {"subnet": "10.244.1.0/24", "vtep": "192.168.111.129", "mac": MAC2},
    {"subnet": "10.244.2.0/24", "vtep": "192.168.111.130", "mac": MAC3},
]
SOUND: dict[str, Any] = {
    "overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24", "mac": MAC1},
    "underlay": {"address": "192.168.111.128", "public_address": "203.0.113.7"},
    "registry": {"peers": PEERS},
}
DUAL: dict[str, Any] = {
    "overlay": {
        "network": ["10.244.0.0/16", "fd00:10:244::/56"],
        "subnet": ["10.244.0.0/24", "fd00:10:244::/64"],
    },
    "registry": {"peers": [{"subnet": ["10.244.1.0/24", "fd00:10:244:1::/64"], "vtep": "fd00::2", "mac": MAC2}]},
}


def text_of(base: dict[str, Any], **changes: object) -> str:
    """Return `base` as YAML with values set by keys like `overlay__vni` or `registry__peers__0__mac`; ... deletes."""
    doc = copy.deepcopy(base)
    for key, value in changes.items():
        *path, last = (int(step) if step.isdigit() else step for step in key.split("__"))
        at: Any = doc
        for step in path:
            at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return yaml.safe_dump(doc)


def problems(text: str) -> list[Problem]:
    """Return the problems of a text; empty if there are none."""
    try:
        parse(text)
    except InvalidConfigError as exc:
        return [(problem.key, problem.value, problem.remedy) for problem in exc.problems]
    return []
