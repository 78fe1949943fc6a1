"""/metrics for Prometheus, /healthz and /readyz for supervisors, over HTTP in a thread of its own.

It reads the counters the data path keeps anyway and costs it nothing; a scrape shares the GIL with the event loop,
which the compiled gear's bursts do not need.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from vxland.errors import StartError
from vxland.ops.sample import Sample

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = structlog.get_logger()


class _Collector:
    def __init__(self, sample: Callable[[], Sample]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metric families of this moment."""
        sample = self._sample()
        frames = CounterMetricFamily("vxland_frames", "Inner frames forwarded.", labels=["direction"])
        octets = CounterMetricFamily("vxland_bytes", "Bytes of inner frames forwarded.", labels=["direction"])
        drops = CounterMetricFamily("vxland_drops", "Frames dropped; docs/drops.md.", labels=["direction", "reason"])
        for direction, done in sample.directions.items():
            frames.add_metric([direction], done.frames)
            octets.add_metric([direction], done.octets)
            for reason, count in done.drops.items():
                drops.add_metric([direction, reason], count)
        yield from (frames, octets, drops)
        yield GaugeMetricFamily("vxland_leases", "Leases of other nodes in the table.", value=sample.leases)
        yield GaugeMetricFamily(
            "vxland_registry_readable", "1 while the registry can be read.", value=int(not sample.registry.error)
        )
        yield GaugeMetricFamily(
            "vxland_registry_quarantined",
            "Entries of the registry that are not understood.",
            value=len(sample.registry.quarantined),
        )


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without the reverse DNS look-up that HTTPServer makes there."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds a client may dawdle over its request

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Say nothing: scrapes are no events."""


class MetricsServer:
    """Serves until closed. StartError where the address cannot be bound."""

    def __init__(self, address: str, port: int, sample: Callable[[], Sample]) -> None:
        self._sample = sample
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(sample))
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
        self._server.serve_forever(poll_interval=0.05)  # close() waits for so long

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        status, text = "404 Not Found", "try /metrics, /healthz or /readyz"
        if path == "/healthz":
            status, text = "200 OK", "vxland is running"
        elif path == "/readyz":
            reason = self._sample().not_ready
            status, text = ("503 Service Unavailable", reason) if reason else ("200 OK", "vxland is ready")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
