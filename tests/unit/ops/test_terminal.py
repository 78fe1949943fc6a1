"""Foreign text reaches a terminal without control characters: names, arguments, errors, log events."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from rich.console import Console

from vxland.cli import main
from vxland.ctl import cli as ctl
from vxland.ctl import counters, show, top
from vxland.model.errors import ConfigError, InvalidConfigError, StartError, VxlandError
from vxland.ops import log

EVIL = "\x1b]0;owned\x07\r\nready      yes\x9b2J\u202eexe\u2028\x7f\udc80[red]:smile:"
NUMBERS = dict.fromkeys(("uptime_s", "pid"), 1)
STATUS = {
    "version": "1",
    "gear": EVIL,
    **NUMBERS,
    "not_ready": EVIL,
    "troubles": [EVIL],
    "process": {"capabilities": [], "no_new_privs": True, "seccomp": True, "user": EVIL},
    "registry": {
        "kind": "kube",
        "error": EVIL,
        "for_s": 1,
        "leases": 1,
        "remembered": EVIL,
        "quarantined": {EVIL: EVIL},
    },
    "firewall": {"wanted": True, "error": EVIL, "iptables": ""},
    "planes": [],
}
PEER = {
    "subnet": EVIL,
    "vtep": EVIL,
    "mac": EVIL,
    "device": EVIL,
    "age_s": 1,
    "probe": {
        "state": "unreachable",
        "rtt_smoothed_s": None,
        "loss": None,
        "full_mtu": "unknown",
        "mtu": 1,
        "cause": {"word": "w", "happened": EVIL, "remedy": EVIL},
    },
    "traffic": {way: {"frames": 1, "bytes": 1} for way in ("encap", "decap")},
}
STATS = {way: {"frames": 1, "bytes": 1, "drops": {EVIL: 1}} for way in ("encap", "decap")} | {"at_s": 1}


def is_plain(text: str) -> bool:
    """Return whether each line is printable, and no name has started a line."""
    return all(line.isprintable() for line in text.split("\n")) and "\nready  " not in text


@pytest.mark.parametrize(
    "text",
    [
        show.status(show.fit(STATUS)),
        show.peers(show.fit([PEER])),
        counters.stats(show.fit(STATS)),
        show.reload(show.fit({"problems": [{"key": EVIL, "value": EVIL, "remedy": EVIL}]})),
        show.plan(show.fit({EVIL: [EVIL]})),
        str(VxlandError(EVIL)),
        str(StartError(EVIL, EVIL)),
        str(InvalidConfigError([ConfigError(EVIL, EVIL, EVIL)] * 2)),
    ],
    ids=["status", "peers", "stats", "reload", "plan", "error", "start", "settings"],
)
def test_names_of_a_store_do_not_reach_the_terminal_raw(text: str) -> None:
    """A lease's key with escape sequences and line breaks controlled the terminal of the operator."""
    assert is_plain(text)
    assert r"\x1b]0;owned\x07" in text


def test_top_shows_names_literally() -> None:
    """Brackets in a name were taken for markup, and escape sequences reached the terminal."""
    output = StringIO()
    rates = {way: {"frames": 1, "bytes": 1, "drops": {}} for way in ("encap", "decap")}
    view = top.TopView(STATUS, STATS, rates, [PEER])
    console = Console(file=output, width=300, markup=False, emoji=False, highlight=False)
    console.print(top.screen(view))
    assert is_plain(output.getvalue())
    assert r"\x1b]0;owned\x07" in output.getvalue()
    assert "[red]:smile:" in output.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"--{EVIL}"],
        ["run", "-\x1f"],
        ["run", EVIL],
        ["run", "--log-level", EVIL],
        ["demo", "--peer", EVIL],
        ["bench", "--rounds", EVIL],
        ["check", "-c", EVIL],
        ["run", "-c", EVIL],
        ["flanneld", "-\x1f"],
        ["flanneld", f"--{EVIL}=1"],
        ["flanneld", f"--iface={EVIL}"],
        ["flanneld", f"--ip-masq={EVIL}"],
        [EVIL],
        [f"-{EVIL}"],
    ],
)
def test_no_usage_error_of_vxland_repeats_a_control_character(words: list[str]) -> None:
    r"""`vxland flanneld $'-\x1f'` printed it."""
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 2
    assert is_plain(result.output)


@pytest.mark.parametrize(
    "words",
    [
        [EVIL],
        [f"--{EVIL}"],
        ["status", EVIL],
        ["status", f"--{EVIL}"],
        ["trace", EVIL, EVIL, EVIL],
        ["trace", "--live", EVIL, EVIL],
        ["trace", "a", "b", "tcp", EVIL],
        ["capture", EVIL],
        ["top", "--interval", EVIL],
        ["--instance", f"/{EVIL}", "status"],
        ["--instance", EVIL, "status"],
        ["completion", EVIL],
    ],
)
def test_no_error_of_vxlandctl_repeats_a_control_character(words: list[str]) -> None:
    """Arguments, file names and filters are escaped."""
    result = CliRunner().invoke(ctl.main, words)
    assert result.exit_code in {1, 2}
    assert is_plain(result.output)


@pytest.mark.parametrize("unbuffered", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words",
    [("vxland", "--help"), ("vxland", "check", "--json", "-c", "missing.yaml"), ("vxland.ctl", "completion", "bash")],
    ids=" ".join,
)
def test_a_full_disk_is_one_line(words: tuple[str, ...], unbuffered: list[str]) -> None:
    """Output that was redirected to a full disk ended in a traceback."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            (sys.executable, "-EP", *unbuffered, "-m", *words),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    program = {"vxland": "vxland", "vxland.ctl": "vxlandctl"}[words[0]]
    why = "the output cannot be written: No space left on device: free space there, or send it to another place"
    assert (done.returncode, done.stderr) == (1, f"{program}: {why}\n")


@pytest.mark.parametrize("form", ["console", "json"])
def test_log_events_stay_on_one_line_of_bounded_length(
    form: log.LogFormat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store's error text of 8 MiB was logged whole, and its line breaks looked like other events."""
    written = tmp_path / "log"
    with written.open("w", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stderr", file)
        log.configure(form, "info")
        structlog.get_logger().warning("registry_trouble", reason=EVIL + "x" * 8_000_000, value=[EVIL] * 9000, n=7)
        structlog.get_logger().error("control_failed", command=EVIL, exc_info=VxlandError(EVIL))
    structlog.reset_defaults()
    event, *traceback = written.read_text(encoding="utf-8").split("\n")
    assert event.isprintable()
    assert len(event) < 5000
    assert r"\x1b]0;owned" in event
    assert is_plain("\n".join(traceback))
    if form == "json":
        assert json.loads(event)["n"] == 7
