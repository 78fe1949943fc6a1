#!/usr/bin/env python3
"""Write what is made from the Helm chart and for it: `make manifests`.

- deploy/kube-vxland.yml: the chart, rendered with deploy/helm/kube-vxland.values.yaml. Needs helm, whose path is the
  argument; without one it is left as it is.
- `config` and `extraArgs` in values.schema.json: what of vxland's settings `vxland flanneld` takes from a file, with
  their ranges, and its flags, so that helm refuses a value out of range, and an unknown key or flag.
"""

# ruff: noqa: S603  (starts helm)

from __future__ import annotations

import json
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from vxland.cli.flanneld.flag_table import FLAGS
from vxland.cli.flanneld.go_flags import Flag
from vxland.cli.flanneld.translate import OWN_KUBE, OWN_SECTIONS
from vxland.config import Settings
from vxland.config.section import OFF_IS_FALSE, ON_OFF, ReadBy

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "vxland"
VALUES: Final = CHART.with_name("kube-vxland.values.yaml")
SCHEMA: Final = CHART / "values.schema.json"
MANIFEST: Final = ROOT / "deploy" / "kube-vxland.yml"
NAMESPACE: Final = "kube-flannel"
NOT_THERE: Final = ("overlay.mac", "security.user")
"""Settings that no pod can use: no two nodes may share a MAC, and the container may not become another user."""

OF_THE_CHART: Final = ("kube-subnet-mgr", "healthz-ip", "healthz-port", "subnet-file", "vxland-config", "version")
"""Flags that the pod's template gives, or that would end vxland; those of etcd have no effect."""

HEAD: Final = """\
# vxland on the nodes that have the label node.vxland/enabled, with its own account and rights. Nothing of flannel's
# changes. The network is that of the ConfigMap kube-flannel-cfg, which flannel's kube-flannel.yml or, in a cluster
# without flannel, deploy/kube-flannel-cfg.yml makes. So both run in one cluster, and a node moves by its label:
# docs/migrate-from-flannel.md. Without flannel: docs/kubernetes.md. With flannel in kube-system, as before 0.19:
#   sed 's/namespace: kube-flannel/namespace: kube-system/' deploy/kube-vxland.yml | kubectl apply -f -
# Made of the chart in deploy/helm by `make manifests`: change it there.
"""


def manifest(helm: str) -> str:
    """Return deploy/kube-vxland.yml, rendered by the program `helm`."""
    command = (helm, "template", "vxland", str(CHART), "--namespace", NAMESPACE, "--values", str(VALUES))
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return HEAD + re.sub(r"^# Source: .*\n|^\n(?=---)", "", rendered, flags=re.MULTILINE)


def schema(text: str) -> str:
    """Return the text of values.schema.json with the current settings as `config`."""
    whole = json.loads(text)
    sections = {name: _section(name) for name in OWN_SECTIONS} | {"kube": _section("kube", OWN_KUBE)}
    whole["properties"]["config"]["properties"] = dict(sorted(sections.items()))
    flags = (flag for flag in FLAGS if flag.name not in OF_THE_CHART and not flag.name.startswith("etcd-"))
    whole["properties"]["extraArgs"]["items"]["pattern"] = f"^--?({'|'.join(map(_argument, flags))})$"
    return json.dumps(whole, indent=2) + "\n"


def _argument(flag: Flag) -> str:
    """Return the pattern of a flag with its value, in one argument."""
    values = {"switch": "(=(true|false))?", "number": "=[0-9]+", "text": r"=\S+", "list": r"=\S+"}
    return flag.name + values[flag.kind]


def _section(name: str, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of a section, or of some keys of it."""
    model: type[BaseModel] = type(getattr(Settings(), name))
    wanted = {key: model.model_fields[key] for key in keys or model.model_fields}
    fields = {key: field for key, field in wanted.items() if f"{name}.{key}" not in NOT_THERE and _is_read(field)}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _value(field) for key, field in fields.items()},
    }


def _is_read(field: FieldInfo) -> bool:
    """Return whether a node with registry.kind `kube` reads the setting."""
    return all("kube" in mark.kinds for mark in field.metadata if isinstance(mark, ReadBy))


def _value(field: FieldInfo) -> dict[str, Any]:
    """Return the range of a setting, as far as JSON Schema has words for it; vxland checks the rest when it starts."""
    for mark in field.metadata:
        if isinstance(mark, WithJsonSchema):
            return {**(mark.json_schema or {})}
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [False, *(str(each) for each in kind)]}
    if get_origin(kind) is Literal:
        bare = [False] if OFF_IS_FALSE in field.metadata else [True, False] if ON_OFF in field.metadata else []
        return {"enum": [*get_args(kind), *bare]}
    if kind is bool:
        return {"type": "boolean"}
    if kind is int:
        names = {"ge": "minimum", "le": "maximum"}
        bounds = {
            key: getattr(mark, end) for mark in field.metadata for end, key in names.items() if hasattr(mark, end)
        }
        return {"type": "integer", **bounds}
    return {}


def main() -> None:
    """Write both files, or the schema alone."""
    SCHEMA.write_text(schema(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
    for helm in sys.argv[1:2]:
        MANIFEST.write_text(manifest(helm), encoding="utf-8")


if __name__ == "__main__":
    main()
