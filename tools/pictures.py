"""Make the pictures of the README in docs/images from a real demo: `make pictures`, as root.

report.png and packet.png show the page of `vxland demo --report`, top.png the screen of `vxlandctl top` on its node 1
while TCP runs both ways and its peer sends some datagrams of another VNI.
"""
# ruff: noqa: S603, T201  (a script, not a package, that runs a reader's commands)

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image  # a dependency of matplotlib
from rich.console import Console
from rich.text import Text

from tests.browser import Browser
from vxland.lab import namespaces, shell
from vxland.lab.topology import NODES, POD_A, POD_C, PORT

TARGET = Path(__file__).parents[1] / "docs" / "images"
COLUMNS = 104
SCALE = 1.5
INTERVAL_S = 2
FOREIGN = r"\x08\x00\x00\x00\x00\x00\x07\x00"  # a VXLAN header: VNI 7


def demo(page: Path) -> int:
    """Run the demo and keep it; return its process id, which its names contain."""
    command = (*shell.PYTHON, "-m", "vxland", "demo", "--keep", "--report", str(page))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        pass
    if process.returncode:
        sys.exit("the demo failed: run `vxland demo` to see why")
    return process.pid


def screen_of_top(pid: int) -> str:
    """Return the screen of `vxlandctl top` under load, as an SVG."""
    client, server, peer = (f"vxdemo-{pid}-{of.namespace}" for of in (POD_A, POD_C, NODES[1]))
    ask_again = f"until iperf3 -c {POD_C.address} --bidir -t 60; do sleep 0.1; done"  # the server needs a moment
    knock = f"while sleep 0.02; do printf '{FOREIGN}' >/dev/udp/{NODES[0].underlay}/{PORT}; done"
    load = (
        shell.exec_in(server, "iperf3", "-s"),
        shell.exec_in(client, "sh", "-c", ask_again),
        shell.exec_in(peer, "bash", "-c", knock),
    )
    socket = namespaces.RUN_DIR / f"vxdemo-{pid}" / f"{NODES[0].namespace}.sock"
    ask = (*shell.PYTHON, "-m", "vxland.ctl", "--socket", str(socket), "top", "--once", "--interval", str(INTERVAL_S))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(one, start_new_session=True, **quiet) for one in load]
    env = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    try:
        for _ in range(3):  # TCP starts during the first
            drawn = subprocess.run(ask, env=env, check=True, capture_output=True, text=True).stdout
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(drawn), end="")
    svg = console.export_svg(title="vxlandctl top")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "JetBrains Mono")


def main() -> None:
    """Make all pictures, and remove the demo."""
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser() as browser:
        page, top = Path(place) / "demo.html", Path(place) / "top.svg"
        pid = demo(page)
        try:
            top.write_text(screen_of_top(pid))
        finally:
            namespaces.remove(pid)
        browser.open(page, 1240, scale=SCALE)
        save("report", browser.picture("body", "#topology", (38, 20)))
        save("packet", browser.picture("#hop-3 h3", "#hop-3 .packet:last-child tbody.vxlan", (24, 7)))
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', top.read_text())[0])
        browser.open(top, round(width), height=round(height))
        save("top", browser.picture("svg", "svg"))


def save(name: str, picture: bytes) -> None:
    """Save a picture with a palette, which loses nothing here and makes the file a third of the size."""
    path = TARGET / f"{name}.png"
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


main()
