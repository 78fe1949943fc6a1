"""What the gateway sends: JSON objects, lines of them, and refusals by HTTP status, gRPC code and message."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any, TypeAlias

from vxland.control.trouble import StoreError

Answer: TypeAlias = Mapping[str, Any]
"""A decoded JSON object; what is in it is checked where it is used."""

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


def decode(raw: bytes) -> Answer:
    """One JSON object; ValueError."""
    try:
        answer = json.loads(raw)
    except RecursionError:
        answer = None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ValueError("it does not answer as etcd's client port does")  # noqa: TRY004  (a server's text is a value)
    return answer


def decode_refusal(raw: bytes) -> Answer:
    """As decode(), but empty for what is no JSON: Go's plain 404, or the page of a proxy."""
    try:
        return decode(raw)
    except ValueError:
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
    """What an error says, in either of the gateway's forms."""
    if not isinstance(answer, dict):
        return str(answer)
    return str(answer.get("message") or answer.get("error") or "")


def number(answer: Answer, name: str) -> int:
    """A 64-bit number, which the gateway writes as text and leaves out where it is 0; GatewayError."""
    try:
        return int(answer.get(name, 0))
    except (TypeError, ValueError):
        raise GatewayError(f"the store's {name} is not a number") from None


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


async def lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Each line without its end, however the chunks cut them; blank ones and an unfinished last one are left out."""
    pending: list[bytes] = []  # joined once: a line of many chunks must not be copied for each of them
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line = b"".join((*pending, part))
            pending.clear()
            if line.strip():
                yield line
        if rest:
            pending.append(rest)
