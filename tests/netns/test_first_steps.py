"""docs/first-steps.md, from "Two nodes" on, executed: the commands succeed, and print the output on the page.

pod1 - cni0 node1 ens33 ---- ens33 node2 cni0 - pod2        in a separate /run, which is removed with them
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
END_S = 180.0

VARYING = re.compile(
    r"time[= ][\d.]+ ?ms|rtt .*|\d\d:\d\d:\d\d\.\d+|^\S+Z |pid \d+, up \d+|(?<=workers) +\d.*|\d+ passes"
    r"|(?<=process) +user.*|(?<=cpu) +used.*|(?<=peers) +\d.*"
    r"|(tso|uso|udp_gro|udp_segment|join_tcp|workers|gear)=\w+|compiled|interpreted|^(frames|bytes|dropped).*",
    re.MULTILINE,
)
"""Parts of the output that depend on the machine and the moment."""

FAST_PATH = re.compile(r"^.* fast_path_o(n|ff) .*\n|^  fast path  .*\n( +entries: .*\n)?", re.MULTILINE)
"""The event and the lines of status that say whether this kernel takes the programs, and when."""

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("_able")]


def _page() -> tuple[dict[str, str], dict[str, str]]:
    """Return the commands in order, with their output on the page, and the page's files by name."""
    commands: dict[str, str] = {}
    files: dict[str, str] = {}
    into, key = files, ""
    for line in (ROOT / "docs" / "first-steps.md").read_text().partition("## Two nodes\n")[2].splitlines():
        text = line.removeprefix("    ")
        if text == line and line:  # prose
            key = ""
        elif text.startswith("$ "):
            into, key = commands, text[2:]
            assert key not in commands, key
            commands[key] = ""
        elif not key and re.fullmatch(r"# \w+\.yaml", text):
            into, key = files, text[2:]
            files[key] = ""
        elif key:
            into[key] += text + "\n"
    return commands, files


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in VARYING.sub("*", FAST_PATH.sub("", text)).splitlines() if line.strip()]


def test_the_page_is_true(tmp_path: Path) -> None:
    """Every command of the page, in one shell."""
    commands, files = _page()
    assert len(commands) > 20
    assert sorted(files) == ["node1.yaml", "node2.yaml"]
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, module in (("vxland", "vxland"), ("vxlandctl", "vxland.ctl")):
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m {module} "$@"\n')
        (programs / program).chmod(0o755)
    (tmp_path / "first-steps").mkdir()
    for name, text in files.items():
        (tmp_path / "first-steps" / name).write_text(text)
    # The trap ends the remaining jobs. The page's last commands may have ended them, so a failed kill is ignored.
    script = [
        "trap 'for job in $(jobs -pr); do kill $job 2>/dev/null || :; done' EXIT",
        "mount -t tmpfs tmpfs /run && mkdir /run/netns || exit",
    ]
    for command in commands:
        script += [r"printf '\0'", "{", command.replace("mkdir first-steps && ", ""), "} || exit"]
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    printed = dict(zip(commands, done.stdout.split("\0")[1:], strict=True))
    for command, shown in commands.items():
        assert _lines(printed[command]) == _lines(shown), command
