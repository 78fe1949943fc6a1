"""Traffic between two pods that continues while their nodes' daemons stop and start."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.k8s.cluster import Cluster, until

PORT = 9000
GAP_S = 0.1


class Traffic:
    """Ten pings a second from one pod to another, and ten lines a second that are echoed over one TCP connection."""

    def __init__(self, cluster: Cluster, source: str, sink: str, address: str) -> None:
        sh = "mkfifo /tmp/back; nc -l -p $0 </tmp/back | cat >/tmp/back; rm /tmp/back"
        self._server = cluster.popen(
            "kubectl", "exec", sink, "--", "sh", "-c", sh, str(PORT), stdout=subprocess.DEVNULL
        )
        listens = re.compile(rf":{PORT:04X} 0+:0000 0A ")
        sockets = ("kubectl", "exec", sink, "--", "cat", "/proc/net/tcp", "/proc/net/tcp6")
        until("the pod listens", lambda: listens.search(cluster.ask(*sockets)) is not None)
        run = ("kubectl", "exec", "-i", source, "--")
        # The end of its input ends it; SIGINT then makes it print the summary.
        ping = f"ping -i {GAP_S} {address} & read _; kill -INT $!; wait"
        self._ping = cluster.popen(*run, "sh", "-c", ping, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._flow = cluster.popen(*run, "nc", address, str(PORT), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.sent: list[str] = []
        self.echoed: list[str] = []
        self.pings: list[str] = []
        self._over = threading.Event()
        readers = ((self._flow, self.echoed), (self._ping, self.pings))
        self._threads = [threading.Thread(target=_collect, args=args) for args in readers]
        self._threads.append(threading.Thread(target=self._write))
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        assert self._flow.stdin is not None
        while not self._over.wait(GAP_S):
            line = f"line {len(self.sent)}\n"
            self.sent.append(line)
            self._flow.stdin.write(line)
            self._flow.stdin.flush()

    def wait_moving(self) -> None:
        """Return once ten more pings and ten more lines have come back."""
        pings, lines = len(self.pings) + 10, len(self.echoed) + 10
        until("ten more pings and lines came back", lambda: len(self.pings) >= pings and len(self.echoed) >= lines)

    def report(self, cause: str) -> int:
        """Assert that pings cross again and that TCP lost nothing, end the traffic, and print the cost of `cause`.

        Return the number of lost pings.
        """
        self.wait_moving()
        self._over.set()
        self._threads[-1].join()
        until("every line came back", lambda: len(self.echoed) == len(self.sent))
        self.close()
        assert self.echoed == self.sent
        answered = {int(number) for number in re.findall(r" seq=(\d+) ", "".join(self.pings))}
        sent = max(answered) + 1  # the last one may be on its way when ping ends
        lost = sent - len(answered)
        sys.stdout.write(f"    {cause}: {lost} of {sent} pings lost, ten a second; TCP lost nothing\n")
        return lost

    def close(self) -> None:
        """End the processes."""
        self._over.set()
        for process in (self._ping, self._flow):
            assert process.stdin is not None
            process.stdin.close()
        for process in (self._ping, self._flow, self._server):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join()
        for process in (self._ping, self._flow):
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def traffic(cluster: Cluster) -> Iterator[Traffic]:
    """Traffic from a pod of node1 to a pod of node2, already crossing."""
    (source, _), *_ = cluster.pods(1)
    (sink, address), *_ = cluster.pods(2)
    running = Traffic(cluster, source, sink, address)
    try:
        running.wait_moving()
        yield running
    finally:
        running.close()


def _collect(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    lines.extend(iter(process.stdout.readline, ""))
