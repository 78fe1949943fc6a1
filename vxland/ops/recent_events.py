"""The latest log events of this process, for `vxlandctl support`: a container's log is not at hand inside it."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Final

MOST: Final = 1000
MOST_LEN: Final = 1 << 20
"""Characters of all events together."""


class RecentEvents:
    """A ring of events, each as one line of JSON. Any thread may add one."""

    def __init__(self, most: int = MOST, most_len: int = MOST_LEN) -> None:
        self._most_len = most_len
        self._lines: deque[str] = deque()
        self._most = most
        self._len = 0
        self._lock = threading.Lock()

    def add(self, event: Mapping[str, object]) -> None:
        """Keep an event, in place of the oldest ones if it has to be."""
        line = json.dumps(event, default=repr)
        with self._lock:
            self._lines.append(line)
            self._len += len(line)
            while len(self._lines) > self._most or self._len > self._most_len:
                self._len -= len(self._lines.popleft())

    def lines(self) -> list[str]:
        """Return the events, the oldest first."""
        with self._lock:
            return list(self._lines)
