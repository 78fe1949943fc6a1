"""What the gateway sends: JSON objects, lines of them, and refusals by HTTP status, gRPC code and message."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from vxland.model.text import printable
from vxland.registry.bounded_json import Bounds, parse_object
from vxland.registry.errors import StoreError, TooLargeError

Answer: TypeAlias = Mapping[str, Any]
"""A decoded JSON object; what is in it is checked where it is used."""

BOUNDS: Final = Bounds(4 << 20, 100_000)
"""Of an answer or a line. etcd stores 1.5 MiB in one request by default, which are 2 MiB in base64; a page of 1,000
flannel entries has 500 kB and 8,000 values."""

MAX_MESSAGE: Final = 300
"""Characters of what a server says of an error; etcd's own have 100."""

_NUMBER = re.compile(r"-?[0-9]{1,20}")
_NUMBERS = range(-(1 << 63), 1 << 64)
_OUT_OF_RANGE, _UNAVAILABLE, _UNAUTHENTICATED = 11, 14, 16  # gRPC codes
# etcd's rpctypes; most come with a code that says less
_TOKEN = ("invalid auth token", "revision of auth store is old")
_CREDENTIALS = ("invalid user ID or password", "user name is empty")


class GatewayError(StoreError):
    """A call to etcd failed; most do not once it is tried again."""


class UnreachableError(GatewayError):
    """No member answered as a member with a leader does."""


class RefusedError(GatewayError):
    """The store understood and said no, such as for a lack of permission."""


class CredentialsError(RefusedError):
    """It does not take this user and password, or wants some."""


class TokenError(RefusedError):
    """The token of an earlier login has ended."""


class CompactedError(GatewayError):
    """The revision asked for is forgotten: what holds now has to be listed."""


def decode(raw: bytes, bounds: Bounds = BOUNDS) -> Answer:
    """One JSON object; ValueError, or TooLargeError."""
    try:
        return parse_object(raw, bounds)
    except ValueError:
        raise ValueError("it does not answer as etcd's client port does") from None


def decode_refusal(raw: bytes) -> Answer:
    """As decode(), but empty for what is no JSON: Go's plain 404, or the page of a proxy."""
    try:
        return decode(raw)
    except (ValueError, TooLargeError):
        return {}


def refusal(status: int, answer: Answer, where: str) -> GatewayError:
    """The error that an HTTP status other than 200 stands for."""
    inner = answer.get("error")  # a stream's refusals are an object within
    told = inner if isinstance(inner, dict) else answer
    code, reason = told.get("code", told.get("grpc_code")), message(told)
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
    """What an error says, in either of the gateway's forms; at most MAX_MESSAGE characters on one line."""
    found = (answer.get("message") or answer.get("error") or "") if isinstance(answer, dict) else answer
    return printable(found, MAX_MESSAGE) if isinstance(found, str) else ""


def number(answer: Answer, name: str) -> int:
    """A 64-bit number, which the gateway writes as text and leaves out where it is 0; GatewayError."""
    raw = answer.get(name, 0)
    if type(raw) is str and _NUMBER.fullmatch(raw):
        raw = int(raw)
    if type(raw) is not int or raw not in _NUMBERS:  # neither True, nor 1e999, which is infinity
        raise GatewayError(f"the store's {name} is not a number of 64 bits")
    return raw


def header(answer: Answer, name: str) -> int:
    """A number of the header that every answer has, such as the store's `revision`; GatewayError."""
    return number(child(answer, "header"), name)


def octets(answer: Answer, name: str) -> bytes:
    """A field in base64, left out where it is empty; GatewayError."""
    try:
        return base64.b64decode(answer.get(name, ""), validate=True)
    except (TypeError, ValueError):
        raise GatewayError(f"the store's {name} is not in base64") from None


def objects(answer: Answer, name: str) -> list[Answer]:
    """A list of objects, left out where it is empty; GatewayError."""
    found = answer.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise GatewayError(f"the store's {name} is not a list of objects")
    return found


def child(answer: Answer, name: str) -> Answer:
    """An object inside, empty where it is left out; GatewayError."""
    child = answer.get(name, {})
    if not isinstance(child, dict):
        raise GatewayError(f"the store's {name} is not an object")
    return child
