"""Other programs of the node: a process by its name, a daemon by the response of its health port."""

from __future__ import annotations

import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from vxland.kernel.processes import health_text, named


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer /healthz with a long body, and nothing else."""
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"flanneld is running" + bytes(1 << 20))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_process_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    """It is found as long as it runs; a zombie is not found."""
    program = tmp_path / "vxl-unit-test"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "1000"]) as process:
        try:
            while process.pid not in named("vxl-unit"):  # Popen returns a moment before the kernel sets the name
                assert process.poll() is None
            assert process.pid not in named("unit-test")
        finally:
            process.kill()
        while process.pid in named("vxl-unit"):  # a zombie by now, or soon
            pass


def test_the_response_of_a_health_port() -> None:
    """The beginning of the body is returned; nothing if nobody listens."""
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert health_text("127.0.0.1", server.server_port).startswith("flanneld is running")
        thread.join()
        port = server.server_port
    assert health_text("127.0.0.1", port) == ""
