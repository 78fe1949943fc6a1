"""Requests to an HTTP server of the tests."""

from __future__ import annotations

import urllib.error
import urllib.request


def get(url: str) -> tuple[int, str]:
    """Return status and body, also of a refusal. OSError without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  (our own URL)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
