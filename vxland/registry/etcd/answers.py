"""Answers of etcd's JSON gateway: objects, their fields, and errors by HTTP status, gRPC code and message. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from vxland.model.text import printable
from vxland.registry.bounded_json import Bounds, parse_object
from vxland.registry.errors import StoreError, TooLargeError

Answer: TypeAlias = Mapping[str, Any]
"""A decoded JSON object. The functions below check its fields when they are read."""

BOUNDS: Final = Bounds(4 << 20, 100_000)
"""Limits of an answer or a line. etcd accepts 1.5 MiB in one request by default, which are 2 MiB in base64; a page of
250 flannel entries has 100 kB and 2,000 values."""

MAX_MESSAGE: Final = 300
"""Characters of a server's error message; etcd's have 100."""

_NUMBER = re.compile(r"-?[0-9]{1,20}")
_NUMBERS = range(-(1 << 63), 1 << 64)
_OUT_OF_RANGE, _UNAVAILABLE, _UNAUTHENTICATED = 11, 14, 16  # gRPC codes
# etcd's rpctypes; most have a less specific code
_TOKEN = ("invalid auth token", "revision of auth store is old")
_CREDENTIALS = ("invalid user ID or password", "user name is empty")


class GatewayError(StoreError):
    """A call to etcd failed; a retry mostly succeeds."""


class UnreachableError(GatewayError):
    """No member answered that has a leader."""


class RefusedError(GatewayError):
    """The store refused the request, for example for lack of permission."""


class CredentialsError(RefusedError):
    """The store does not accept this user and password, or requires them."""


class TokenError(RefusedError):
    """The token of an earlier login has expired."""


class CompactedError(GatewayError):
    """The requested revision was compacted: list everything again."""


def decode(raw: bytes, bounds: Bounds = BOUNDS) -> Answer:
    """Parse one JSON object; ValueError or TooLargeError."""
    try:
        return parse_object(raw, bounds)
    except ValueError:
        raise ValueError("it does not answer as etcd's client port does") from None


def decode_refusal(raw: bytes) -> Answer:
    """Parse an error answer; empty if it is no JSON, such as Go's plain 404 or a proxy's page."""
    try:
        return decode(raw)
    except (ValueError, TooLargeError):
        return {}


def refusal(status: int, answer: Answer, where: str) -> GatewayError:
    """Return the error for an answer with an HTTP status other than 200."""
    inner = answer.get("error")  # in a stream, an error is an object inside
    error = inner if isinstance(inner, dict) else answer
    code, reason = error.get("code", error.get("grpc_code")), message(error)
    text = f"{where}: {reason or f'HTTP {status}'}"
    if code == _OUT_OF_RANGE and "compacted" in reason:
        return CompactedError(text)
    if any(known in reason for known in _CREDENTIALS):
        return CredentialsError(text)
    if code == _UNAUTHENTICATED or any(known in reason for known in _TOKEN):
        return TokenError(text)
    if status >= 500 or code == _UNAVAILABLE or not reason:
        return UnreachableError(text)
    return RefusedError(text)


def message(answer: object) -> str:
    """Return an error's message, from either form that the gateway uses: one line of MAX_MESSAGE characters at most."""
    found = (answer.get("message") or answer.get("error") or "") if isinstance(answer, dict) else answer
    return printable(found, MAX_MESSAGE) if isinstance(found, str) else ""


def number(answer: Answer, name: str) -> int:
    """Return a 64-bit number, which the gateway writes as text, and omits if it is 0; GatewayError."""
    raw = answer.get(name, 0)
    if type(raw) is str and _NUMBER.fullmatch(raw):
        raw = int(raw)
    if type(raw) is not int or raw not in _NUMBERS:  # neither True, nor 1e999, which is infinity
        raise GatewayError(f"the store's {name} is not a number of 64 bits")
    return raw


def header(answer: Answer, name: str) -> int:
    """Return a number of the header that every answer has, such as the store's `revision`; GatewayError."""
    return number(child(answer, "header"), name)


def base64_field(answer: Answer, name: str) -> bytes:
    """Return the bytes of a base64 field, which the gateway omits if it is empty; GatewayError."""
    try:
        return base64.b64decode(answer.get(name, ""), validate=True)
    except (TypeError, ValueError):
        raise GatewayError(f"the store's {name} is not in base64") from None


def objects(answer: Answer, name: str) -> list[Answer]:
    """Return a list of objects, which the gateway omits if it is empty; GatewayError."""
    found = answer.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise GatewayError(f"the store's {name} is not a list of objects")
    return found


def child(answer: Answer, name: str) -> Answer:
    """Return an object inside, empty if it is omitted; GatewayError."""
    child = answer.get(name, {})
    if not isinstance(child, dict):
        raise GatewayError(f"the store's {name} is not an object")
    return child
