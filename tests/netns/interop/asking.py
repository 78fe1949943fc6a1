"""Output of a running vxland: by vxlandctl over its control socket, and by HTTP from its node's loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from click.testing import CliRunner

from tests.web import get
from vxland.ctl.cli import main

from .lab import Lab, Vxland

METRICS = "127.0.0.1:9472"


def control(vxland: Vxland) -> Path:
    """Return the node's control socket."""
    return Path(vxland.settings["control"]["socket"])


def ask(vxland: Vxland, *words: str, code: int = 0) -> str:
    """Run `vxlandctl` and return its standard output, or its standard error if it fails as expected."""
    done = CliRunner().invoke(main, ["--socket", str(control(vxland)), *words])
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def ask_json(vxland: Vxland, *words: str) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return its output for programs."""
    return json.loads(ask(vxland, *words, "--json"))


def carried(vxland: Vxland, way: Literal["encap", "decap"]) -> int:
    """Return the frames that programs have carried in one direction."""
    frames: int = ask_json(vxland, "stats")["fast_path"][way]["frames"]
    return frames


def page(lab: Lab, path: str) -> str:
    """Return a page of node a's HTTP server, with status 200; `metrics.listen` must be METRICS."""
    status, text = lab.a.ns.inside(lambda: get(f"http://{METRICS}{path}"))
    assert status == 200, text
    return text
