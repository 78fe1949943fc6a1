"""Run in pods and beside them: `serve PORT` answers over TCP and UDP, `ask [[HOST, PORT], ...]` compares the answers.

An answer is the address that the server saw, a line end, and what it was sent. Needs nothing of vxland.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
import threading

TCP_BYTES = 1_000_000
DATAGRAM_BYTES = (10, 1400, 4000)
"""One packet, one of nearly the overlay's MTU, and one in three fragments."""
TIMEOUT_S = 20.0
TRIES = 3


class Stream(socketserver.StreamRequestHandler):
    """Answers one connection, once it has been shut down for writing."""

    def handle(self) -> None:
        """Send back what came."""
        self.wfile.write(f"{self.client_address[0]}\n".encode() + self.rfile.read())


class Datagram(socketserver.BaseRequestHandler):
    """Answers one datagram."""

    def handle(self) -> None:
        """Send it back."""
        body, datagrams = self.request
        datagrams.sendto(f"{self.client_address[0]}\n".encode() + body, self.client_address)


def serve(port: int) -> None:
    """Serve both until the process ends."""
    udp = socketserver.UDPServer(("0.0.0.0", port), Datagram)  # noqa: S104  (in a pod)
    threading.Thread(target=udp.serve_forever, daemon=True).start()
    socketserver.ThreadingTCPServer(("0.0.0.0", port), Stream).serve_forever()  # noqa: S104


def over_tcp(host: str, port: int) -> str:
    """Return the address that the server saw; ValueError if it saw other bytes."""
    body = os.urandom(TCP_BYTES)
    with socket.create_connection((host, port), TIMEOUT_S) as stream:
        stream.sendall(body)
        stream.shutdown(socket.SHUT_WR)
        return _source(b"".join(iter(lambda: stream.recv(65536), b"")), body)


def over_udp(host: str, port: int) -> str:
    """Return the addresses that the server saw, of datagrams of each size."""
    seen = set()
    for size in DATAGRAM_BYTES:
        body = os.urandom(size)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(TIMEOUT_S / TRIES)
            datagrams.connect((host, port))
            for last in (*(False,) * (TRIES - 1), True):  # a datagram may be lost
                datagrams.send(body)
                try:
                    seen.add(_source(datagrams.recv(65536), body))
                    break
                except TimeoutError:
                    if last:
                        raise
    return " ".join(sorted(seen))


def _source(answered: bytes, body: bytes) -> str:
    source, _, back = answered.partition(b"\n")
    if back != body:
        raise ValueError(f"sent {len(body)} bytes, and {len(back)} others came back")
    return source.decode()


def ask(host: str, port: int) -> list[str]:
    """Return what the server saw over TCP and UDP, or the error."""
    seen = []
    for way in (over_tcp, over_udp):
        try:
            seen.append(way(host, port))
        except (OSError, ValueError) as exc:
            seen.append(f"{type(exc).__name__}: {exc}")
    return seen


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps([ask(host, port) for host, port in json.loads(sys.argv[2])]))
