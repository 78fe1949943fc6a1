"""What a running vxland tells: by vxlandctl over its control socket, and by HTTP from its node's loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.web import get
from vxland.ctl.cli import main

from .lab import Lab, Vxland

METRICS = "127.0.0.1:9472"


def control(vxland: Vxland) -> Path:
    """The node's control socket."""
    return Path(vxland.settings["control"]["socket"])


def ask(vxland: Vxland, *words: str, code: int = 0) -> str:
    """What `vxlandctl` prints on standard output; on standard error, where it fails as expected."""
    done = CliRunner().invoke(main, ["--socket", str(control(vxland)), *words])
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def ask_json(vxland: Vxland, *words: str) -> Any:  # noqa: ANN401  (as JSON has it)
    """What it prints for programs."""
    return json.loads(ask(vxland, *words, "--json"))


def page(lab: Lab, path: str) -> str:
    """What node a's HTTP server says, with status 200, where `metrics.listen` is METRICS."""
    status, text = lab.a.ns.inside(lambda: get(f"http://{METRICS}{path}"))
    assert status == 200, text
    return text
