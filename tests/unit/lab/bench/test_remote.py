"""`vxland bench --to`: its runs, its output, and its failures."""

from __future__ import annotations

import io
import json
from ipaddress import IPv4Address

import pytest
from click.testing import CliRunner
from rich.console import Console

from vxland.cli.main import main
from vxland.lab.bench.remote import RUNS, as_json, run, table
from vxland.lab.traffic import Throughput
from vxland.model.errors import StartError

FOUND = {"10.244.1.13": dict.fromkeys(RUNS, Throughput(5.25, 46)) | {"TCP, 1 stream": Throughput(0, 0, "refused")}}


def test_the_table_has_a_line_for_each_run() -> None:
    """Rates, retransmits or loss, and an error message in place of numbers."""
    text = io.StringIO()
    Console(file=text, width=100).print(table(FOUND, 3))
    for title in RUNS:
        (line,) = [line for line in text.getvalue().splitlines() if f" {title} " in line]
        assert ("refused" if title == "TCP, 1 stream" else "5.25 (46 retransmits)") in line


def test_json() -> None:
    """A failed run has an error and no numbers."""
    runs = json.loads(json.dumps(as_json(FOUND, 3)))["to"]["10.244.1.13"]
    assert runs.pop("TCP, 1 stream") == {"error": "refused"}
    assert set(runs) == set(RUNS) - {"TCP, 1 stream"}
    assert all(one == {"gbit_s": 5.25, "retransmits": 46, "lost_percent": 0.0} for one in runs.values())


def test_without_iperf3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names its package."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StartError, match="apt-get install iperf3"):
        run([IPv4Address("192.0.2.1")], 1, json_wanted=False)


def test_an_invalid_address_is_a_usage_error() -> None:
    """Exit status 2."""
    assert CliRunner().invoke(main, ["bench", "--to", "pod3"]).exit_code == 2
