"""`vxland flanneld` as far as it goes without a node: help, version, refusals, and its documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.cli.flanneld.command_line import HELP
from vxland import __version__
from vxland.cli.flanneld import help_text, parse
from vxland.cli.flanneld.flag_table import ENVIRONMENT, FLAGS
from vxland.cli.main import main

ROOT = Path(__file__).parents[4]


def flanneld(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run `vxland flanneld` without a node; return exit code, output and errors."""
    result = CliRunner().invoke(main, ["flanneld", *argv], env=env)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--h"])
def test_help(flag: str) -> None:
    """Help lists every flag with default and meaning; as in Go, arguments after it are not read."""
    code, out, _ = flanneld("--ip-masq", flag, "--unknown")
    assert (code, out) == (0, help_text() + "\n")
    for known in FLAGS:
        assert f"--{known.name}" in out
        assert known.meaning in out
        assert not known.default or f"(default {known.default})" in out
    assert all(name in out for name in ENVIRONMENT)


def test_version() -> None:
    """The version goes to standard error, and FLANNELD_VERSION has no effect, as in flanneld."""
    assert flanneld("--version") == (0, "", f"{__version__}\n")
    assert flanneld("-version=true", "--iptables-resync=0") == (0, "", f"{__version__}\n")
    assert parse([], {"FLANNELD_VERSION": "true"}).version is False


def test_refusals_on_the_command_line() -> None:
    """Exit code 2, and a line for each problem; arguments reach the parser as they are."""
    assert flanneld("--foo") == (2, "", f"vxland flanneld: unknown flag --foo; {HELP}\n")
    code, out, err = flanneld("-iface=a b", "--iptables-resync", "0")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "vxland flanneld: --iface: 'a b': use a name without blanks, / : and %, such as flannel.1",
        "vxland flanneld: --iptables-resync: 0: use 1 or more",
    ]
    code, _, err = flanneld("--", "--foo", env={"FLANNELD_IP_MASQ": "maybe"})
    assert (code, err) == (2, "vxland flanneld: FLANNELD_IP_MASQ: 'maybe': write true or false\n")


def test_the_page_has_every_flag() -> None:
    """docs/flanneld.md has each flag and variable with the text of the code."""
    text = (ROOT / "docs" / "flanneld.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--?[^`]+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", text, re.MULTILINE)
    assert rows == [(f"--{flag.name}", flag.default, flag.meaning) for flag in FLAGS]
    variables = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", text, re.MULTILINE)
    assert variables == list(ENVIRONMENT.items())
