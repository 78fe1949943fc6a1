"""Captures by a running `vxlandctl capture`."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scapy.layers import inet6  # noqa: F401  (with it PcapNgReader decodes Ethernet, IP and what they carry)
from scapy.utils import PcapNgReader

from tests.patience import PATIENCE_S

from .asking import control
from .daemon import ROOT
from .lab import Lab
from .ns import wait_until


def ctl(lab: Lab, *words: str) -> tuple[str, ...]:
    """Return a command of vxlandctl for node a."""
    return (sys.executable, "-m", "vxland.ctl", *words, "--socket", str(control(lab.vxland)))


class Capturing:
    """A running `vxlandctl capture -w`; `lost` and the file's packets are known once it has ended."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self.process = process
        self.path = path
        self.summary = ""

    def packets(self) -> list[Any]:
        """The packets of the file."""
        with PcapNgReader(str(self.path)) as reader:
            return list(reader)


@contextmanager
def capturing(lab: Lab, path: Path, *options: str) -> Iterator[Capturing]:
    """Capture on node a while the block runs; ended as by Ctrl-C."""
    process = subprocess.Popen(
        ctl(lab, "capture", "-w", str(path), *options), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    found = Capturing(process, path)
    try:
        wait_until(lambda: path.exists() and path.stat().st_size, "the capture starts")
        yield found
        process.send_signal(signal.SIGINT)
        found.summary = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == 0, found.summary
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
