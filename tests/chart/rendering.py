"""The Helm chart, rendered by the real helm."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools import chart
from vxland.cli import flanneld
from vxland.config import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HELM, KUBECTL = ROOT / "build" / "helm" / "helm", ROOT / "build" / "helm" / "kubectl"
VALUES: dict[str, Any] = yaml.safe_load((chart.CHART / "values.yaml").read_text())
BESIDE_FLANNEL = ("--values", str(chart.VALUES))


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` of the chart with these arguments."""
    command = (str(HELM), "template", "vxland", str(chart.CHART), "--namespace", "kube-flannel", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def objects(*words: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rendered objects by kind and name."""
    done = helm(*words)
    assert done.returncode == 0, done.stderr
    found = [thing for thing in yaml.safe_load_all(done.stdout) if thing]
    return {(thing["kind"], thing["metadata"]["name"]): thing for thing in found}


def template(*words: str) -> dict[str, Any]:
    """Return the pods' template."""
    made: dict[str, Any] = objects(*words)["DaemonSet", "kube-vxland-ds"]["spec"]["template"]
    return made


def daemon(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return vxland's own container of a pod."""
    found: dict[str, Any]
    (found,) = (each for each in spec["containers"] if each["name"] == "kube-vxland")
    return found


def settings_of(made: Mapping[tuple[str, str], dict[str, Any]], scratch: Path) -> Settings:
    """Return the settings of the daemon of rendered objects: of its command, and of the file that it names."""
    command = daemon(made["DaemonSet", "kube-vxland-ds"]["spec"]["template"]["spec"])["command"]
    assert {type(word) for word in command} == {str}
    file = scratch / "vxland.yaml"
    if ("ConfigMap", "kube-vxland-cfg") in made:
        file.write_text(made["ConfigMap", "kube-vxland-cfg"]["data"]["vxland.yaml"])
    there = "--vxland-config=/etc/vxland/vxland.yaml"
    return flanneld.parse([f"--vxland-config={file}" if word == there else word for word in command[2:]], {}).settings
