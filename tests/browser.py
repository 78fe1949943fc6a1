"""A headless Chromium for pages of this repository, over the DevTools protocol's pipe, without driver, port or library.

The browser reads commands from descriptor 3 and answers on 4, in JSON objects that end with a zero byte.
https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

PROGRAM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
END_S = 30.0


class Browser:
    """One browser with one tab. `complaints`: messages of its console, log and network since the last `open`."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="vxland-chromium-", ignore_cleanup_errors=True)
        commands, ours_out = os.pipe()
        ours_in, answers = os.pipe()
        self._process = subprocess.Popen(
            # A shell puts the pipe's ends where Chromium expects them; bash, because dash accepts only one digit.
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "-", *self._command()],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._commands, self._answers = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def _command(self) -> tuple[str, ...]:
        return (PROGRAM or "chromium", *FLAGS, f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe")

    def open(self, path: Path, width: int, *, height: int = 900, scale: float = 1, dark: bool = False) -> None:
        """Load the file into a window of this size in CSS pixels, and return once it is loaded."""
        self.complaints.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._loaded = False
        self._ask("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._hear(self._read())

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401  (as JSON has it)
        """Return the value of a JavaScript expression. AssertionError if it throws."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, given by its name."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key)

    def picture(self, first: str, last: str, margin: tuple[int, int] = (0, 0)) -> bytes:
        """Return a PNG from the upper left of the first selector's element to the lower right of the last one's."""
        corner = "(e => [e.{} + scrollX, e.{} + scrollY])(document.querySelector({}).getBoundingClientRect())"
        x, y = self.evaluate(corner.format("left", "top", json.dumps(first)))
        right, bottom = self.evaluate(corner.format("right", "bottom", json.dumps(last)))
        beside, above = margin
        x, y = max(0, x - beside), max(0, y - above)  # Chromium loses the scale to the left of the page
        clip = {"x": x, "y": y, "width": right + beside - x, "height": bottom + above - y, "scale": 1}
        shot = self._ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = None
        try:
            self._ask("Browser.close")
            self._process.wait(END_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._commands.close()
            self._answers.close()
            self._profile.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._answers.read(1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def _hear(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(str(params["entry"]))
            case "Network.requestWillBeSent" if params["type"] != "Document":
                self.complaints.append(f"it loads {params['request']['url']}")


# Visible text less readable than WCAG 2.1 AA demands of small text, 4.5 to 1, by its element's class.
_PALE = """
(() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const found = parse(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const pale = new Map();
  for (const one of document.querySelectorAll("body *:not(svg *):not(script)")) {
    const bare = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!bare || !one.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) pale.set(`${one.tagName}.${one.className}`, (a + 0.05) / (b + 0.05));
  }
  return Object.fromEntries(pale);
})()
"""


def check_page(browser: Browser, path: Path) -> None:
    """Assert, on desktop and phone, light and dark: no messages, no horizontal scrolling, all text legible."""
    for width, dark in ((1280, False), (1280, True), (400, False)):
        browser.open(path, width, dark=dark)
        assert browser.complaints == []
        assert browser.evaluate("document.documentElement.scrollWidth") == browser.evaluate("innerWidth") == width
        assert browser.evaluate(_PALE) == {}
        out = (
            "[...document.querySelectorAll('main > section')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.id)"
        )
        assert browser.evaluate(out) == []
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(level <= before + 1 for before, level in pairwise(levels))
    # The policy is in force: a foreign script and style have no effect.
    browser.evaluate("window.ran = false")
    browser.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'ran = true'}))")
    assert browser.evaluate("window.ran") is False
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
