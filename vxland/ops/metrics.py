"""/metrics for Prometheus, /healthz and /readyz for supervisors, over HTTP in a separate thread.

It reads counters that the data path has anyway, so it costs the data path nothing. A scrape shares the GIL with the
event loop, which the compiled gear's bursts do not need.

Anyone who reaches the port may connect often, send nothing, or send slowly. So MAX_CLIENTS are served at a time, with a
thread and a descriptor each, and one more replaces the oldest. A scrape takes milliseconds, so it succeeds even beside
slow clients.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric

from vxland.model.errors import StartError
from vxland.model.text import printable

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


MAX_CLIENTS: Final = 16
_PLACE_S: Final = 1.0  # time in which a replaced client must end
_LINE_LEN: Final = 4096

Readiness: TypeAlias = tuple[str, Sequence[str]]
"""The reason why the node is not ready, or ""; and further lines about problems."""


class _Collector:
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the current metric families."""
        yield from self._families()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # with Python's 5 a scrape beside slow clients waits a second for a retransmitted SYN

    def __init__(self, *args: Any, **extra: Any) -> None:  # noqa: ANN401  (as the base class has it)
        self._served: dict[socket.socket, None] = {}
        """Connections that have a thread, the oldest first."""
        self._changed = threading.Condition()
        super().__init__(*args, **extra)

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]  # noqa: ANN401  (as above)
        """Serve a connection on a thread, once there are fewer than MAX_CLIENTS."""
        with self._changed:
            if len(self._served) >= MAX_CLIENTS:
                with suppress(OSError):
                    next(iter(self._served)).shutdown(socket.SHUT_RDWR)  # its thread reads the end, and ends
                self._changed.wait_for(lambda: len(self._served) < MAX_CLIENTS, _PLACE_S)
            if len(self._served) < MAX_CLIENTS:
                self._served[request] = None
                super().process_request(request, client_address)
                return
        self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]  # noqa: ANN401  (as above)
        """Serve one connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                del self._served[request]
                self._changed.notify()

    def handle_error(self, *_: Any) -> None:  # noqa: ANN401  (as the base class has it)
        """Log nothing: a client that leaves early is no event."""

    def server_bind(self) -> None:
        """Bind, without HTTPServer's reverse DNS lookup."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds without data

    def log_message(self, *_: Any) -> None:  # noqa: ANN401  (as the base class has it)
        """Log nothing: scrapes are no events."""


class MetricsServer:
    """HTTP server of one node, running until closed. StartError if the address cannot be bound."""

    def __init__(
        self,
        address: str,
        port: int,
        families: Callable[[], Iterable[Metric]],
        readiness: Callable[[], Readiness],
        hung: Callable[[], str] = str,
    ) -> None:
        self._readiness = readiness
        self._hung = hung
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(families))
        self._metrics = make_wsgi_app(registry)
        server = _ServerV6 if ":" in address else _Server
        try:
            self._server = make_server(address, port, self._answer, server, _Handler)
        except OSError as exc:
            cause = f"metrics.listen: {address}:{port} cannot be bound: {exc.strerror}"
            raise StartError(cause, 'choose another, or "" for none') from exc
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)  # the time that close() may wait

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return self._body(environ, start_response)

        def without_body(status: str, headers: list[tuple[str, str]], *_: object) -> Callable[[bytes], object]:
            started.append((status, headers))
            return lambda _: None

        started: list[tuple[str, list[tuple[str, str]]]] = []
        length = sum(map(len, self._body(environ | {"REQUEST_METHOD": "GET"}, without_body)))
        for status, headers in started:
            start_response(status, [*headers, ("Content-Length", str(length))])
        return []

    def _body(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if environ["REQUEST_METHOD"] != "GET":
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return []
        status, text = "404 Not Found", "try /metrics, /healthz or /readyz"
        if path == "/healthz":
            hung = self._hung()
            status = "503 Service Unavailable" if hung else "200 OK"
            text = hung or "vxland is running"
        elif path == "/readyz":
            not_ready, problems = self._readiness()
            status = "503 Service Unavailable" if not_ready else "200 OK"
            lines = (not_ready or "vxland is ready", *problems)
            text = "\n".join(printable(line, _LINE_LEN) for line in lines)
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
