"""etcd's v3 API as its JSON gateway speaks it: POSTs of JSON, keys and values in base64, 64-bit numbers as text.

A member that does not answer, or has no leader, is left for the next of the list; every call tries each of them once.
Both /v3 (etcd 3.4 and later) and /v3beta (3.3) are understood.

With authentication on, a token goes bare into `Authorization`. Tokens end at any time, with the server's restart too,
so a refusal that may be due to that is answered once with a new token.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import aiohttp

from vxland.config.flannel import Etcd
from vxland.control.etcd.answers import (
    Answer,
    CompactedError,
    RefusedError,
    TokenError,
    UnreachableError,
    child,
    decode,
    decode_refusal,
    lines,
    number,
    refusal,
)
from vxland.errors import ConfigError

CONNECT_S: Final = 2.0  # a dead member must not keep us from the next one
CALL_S: Final = 10.0
SILENCE_S: Final = 900.0  # of a watch; etcd tells its progress every 10 minutes

_AUTH_OFF = "authentication is not enabled"
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))  # a dead host: 25 s
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


@dataclass(slots=True)
class _Member:
    url: str
    version: str = "/v3"


class Gateway:
    """A client of one etcd cluster; ConfigError of the file that TLS cannot use. Used from one event loop."""

    def __init__(self, settings: Etcd) -> None:
        self._settings = settings
        self._members = [_Member(endpoint.rstrip("/")) for endpoint in settings.endpoints]
        self._current = 0  # the member that answered last
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._ssl = _tls(settings) if any(member.url.startswith("https:") for member in self._members) else None
        self._session: aiohttp.ClientSession | None = None

    async def call(self, path: str, body: Answer) -> Answer:
        """The answer to one request, such as `kv/range`; GatewayError."""
        problems = []
        first, count = self._current, len(self._members)
        for index in (*range(first, count), *range(first)):
            try:
                answer = await self._authorized(self._members[index], path, body)
            except UnreachableError as exc:
                problems.append(str(exc))
            else:
                self._current = index
                return answer
        raise UnreachableError("; ".join(sorted(problems)))  # the same text whoever was asked first

    async def watch(self, create: Answer) -> AsyncGenerator[Answer]:
        """The responses of a watch; ends where the server ends it. GatewayError, such as CompactedError.

        Only one member is tried: after an error the next watch asks the next one.
        """
        used = self._current
        try:
            async with aclosing(self._responses(self._members[used], create)) as responses:
                async for response in responses:
                    self._raise_canceled(response)
                    yield response
        except TokenError:
            self._token = None
            raise
        except UnreachableError:
            if self._current == used:
                self._current = (used + 1) % len(self._members)
            raise

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _responses(self, member: _Member, create: Answer) -> AsyncGenerator[Answer]:
        await self._log_in(member)
        # Without a leader a member would stay silent for ever; rpctypes.MetadataHasLeader
        headers = {**self._headers(), "Grpc-Metadata-hasleader": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        url, body = f"{member.url}{member.version}/watch", {"create_request": create}
        try:
            async with asyncio.timeout(CALL_S):
                response = await self._open().post(url, json=body, headers=headers, timeout=timeout)
            async with response, aclosing(lines(response.content.iter_any())) as received:
                if response.status != 200:
                    raise refusal(response.status, decode_refusal(await response.read()), member.url)
                _keep_alive(response)
                async for line in received:
                    told = decode(line)
                    if "error" in told:
                        raise refusal(response.status, told, member.url)
                    yield child(told, "result")
        except _FAILURES as exc:
            raise UnreachableError(f"{member.url}: {_cause(exc)}") from exc

    def _raise_canceled(self, response: Answer) -> None:
        if not response.get("canceled"):
            return
        if compacted := number(response, "compact_revision"):
            raise CompactedError(f"the store has forgotten what was before revision {compacted}")
        self._token = None  # an outdated token looks like a permission that is lacking
        raise UnreachableError(f"the watch was ended: {response.get('cancel_reason', 'no reason given')}")

    async def _authorized(self, member: _Member, path: str, body: Answer) -> Answer:
        """One call with a token; with a new one where the one used has ended."""
        await self._log_in(member)
        token = self._token
        try:
            return await self._post(member, path, body)
        except TokenError:
            if self._token == token:
                self._token = None
            await self._log_in(member)
            return await self._post(member, path, body)

    async def _log_in(self, member: _Member) -> None:
        """Get a token, where users are configured and there is none."""
        async with self._login:
            if not self._settings.username or self._token is not None:
                return
            login = {"name": self._settings.username, "password": self._settings.password.get_secret_value()}
            try:
                answer = await self._post(member, "auth/authenticate", login)
            except RefusedError as exc:
                if _AUTH_OFF not in str(exc):
                    raise
                self._token = ""  # as flannel's client does: go on without
            else:
                self._token = str(answer.get("token", ""))

    async def _post(self, member: _Member, path: str, body: Answer) -> Answer:
        version = member.version
        timeout = aiohttp.ClientTimeout(total=CALL_S, sock_connect=CONNECT_S)
        try:
            async with self._open().post(
                f"{member.url}{version}/{path}", json=body, headers=self._headers(), timeout=timeout
            ) as response:
                raw, status = await response.read(), response.status
            if status == 200:
                return decode(raw)
        except _FAILURES as exc:
            raise UnreachableError(f"{member.url}: {_cause(exc)}") from exc
        answer = decode_refusal(raw)
        if status == 404 and version == "/v3" and not answer:
            member.version = "/v3beta"
            return await self._post(member, path, body)
        raise refusal(status, answer, member.url)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # not earlier: it belongs to the loop that runs now
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._ssl or True))
        return self._session


def _tls(settings: Etcd) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        raise ConfigError("etcd.ca_file", str(settings.ca_file), f"name a PEM file of CA certificates: {exc}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        try:
            # An encrypted key is to be refused: without a callback OpenSSL would ask the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: "")
        except OSError as exc:
            remedy = f"name the PEM files of a client certificate and its unencrypted key: {exc}"
            raise ConfigError("etcd.cert_file", str(settings.cert_file), remedy) from exc
    return context


def _cause(exc: BaseException) -> str:
    return "no answer in time" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let an idle watch notice that the other host is gone."""
    transport = response.connection.transport if response.connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
