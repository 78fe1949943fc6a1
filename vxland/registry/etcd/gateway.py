"""etcd's v3 API through its JSON gateway: POSTs of JSON, keys and values in base64, 64-bit numbers as text.

If a member does not answer, or has no leader, the next of the list is used; every call tries each member once. Both /v3
(etcd 3.4 and later) and /v3beta (3.3) are supported.

With authentication on, `Authorization` has the bare token. Tokens expire at any time, also when the server restarts. So
a request that may have been refused for this reason is sent once more, with a new token. Certificates and the password
are read again when their files change: see reread.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import aiohttp

from vxland.config.flannel import EtcdSettings
from vxland.model.secrets import learn
from vxland.registry.errors import StoreError, TooLargeError, cause_of
from vxland.registry.etcd.answers import (
    BOUNDS,
    Answer,
    CompactedError,
    GatewayError,
    RefusedError,
    TokenError,
    UnreachableError,
    child,
    decode,
    decode_refusal,
    message,
    number,
    refusal,
)
from vxland.registry.etcd.credentials import EtcdCredentials, open_credentials
from vxland.registry.http import check_head, make_session, read_body, read_lines, read_refusal
from vxland.registry.reread import ReReadFiles

CONNECT_S: Final = 2.0  # a dead member must not delay the next one for long
CALL_S: Final = 10.0
SILENCE_S: Final = 900.0  # of a watch; etcd sends its progress every 10 minutes

_VERSIONS: Final = ("/v3", "/v3beta")
_NO_GATEWAY: Final = (
    "HTTP 404: if this is etcd's client port, its JSON gateway is off, as it is by default with --config-file; "
    "write enable-grpc-gateway: true into that file, and restart etcd"
)
_MAX_TOKEN: Final = 4096  # a JWT has 1 kB; servers accept headers up to 8 kB
_AUTH_OFF = "authentication is not enabled"
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))  # a dead host: 25 s
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError, StoreError)


@dataclass(slots=True)
class _Member:
    url: str
    version: str = "/v3"


class Gateway:
    """A client of one etcd cluster, used from one event loop. ConfigError of a file that cannot be used."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._credentials: ReReadFiles[EtcdCredentials] = ReReadFiles(lambda: open_credentials(settings))
        self._members = [_Member(endpoint.rstrip("/")) for endpoint in settings.endpoints]
        self._current = 0  # the member that answered last
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def call(self, path: str, body: Answer) -> Answer:
        """Return the answer to one request, such as `kv/range`; GatewayError or TooLargeError."""
        problems: list[StoreError] = []
        first, count = self._current, len(self._members)
        for index in (*range(first, count), *range(first)):
            try:
                answer = await self._authorized(self._members[index], path, body)
            except (UnreachableError, TooLargeError) as exc:
                problems.append(exc)
            else:
                self._current = index
                return answer
        text = "; ".join(sorted(map(str, problems)))  # the same text whichever member was first
        large = any(isinstance(problem, TooLargeError) for problem in problems)
        raise TooLargeError(text) if large else UnreachableError(text)

    async def watch(self, create: Answer) -> AsyncGenerator[Answer]:
        """Yield the responses of a watch until the server ends it. GatewayError, such as CompactedError.

        TooLargeError if one response is too large. Only one member is tried: after an error, the next watch uses the
        next one.
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
        # Without a leader a member would stay silent forever; rpctypes.MetadataHasLeader
        headers = {**self._headers(), "Grpc-Metadata-hasleader": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        try:
            async with asyncio.timeout(CALL_S):
                response = await self._request(member, "watch", {"create_request": create}, headers, timeout)
            async with response:
                check_head(response)
                if response.status != 200:
                    answer = decode_refusal(await read_refusal(response))
                    if response.status == 404 and not answer:
                        member.version = _other(member.version)
                    raise refusal(response.status, answer, member.url)
                _keep_alive(response)
                async with aclosing(read_lines(response.content, BOUNDS)) as received:
                    async for line in received:
                        answer = decode(line)
                        if "error" in answer:
                            raise refusal(response.status, answer, member.url)
                        yield child(answer, "result")
        except _FAILURES as exc:
            raise _error(member, exc) from exc

    def _raise_canceled(self, response: Answer) -> None:
        if not response.get("canceled"):
            return
        if compacted := number(response, "compact_revision"):
            raise CompactedError(f"the store has forgotten what was before revision {compacted}")
        self._token = None  # with an expired token, the store reports a missing permission
        raise UnreachableError(f"the watch was ended: {message(response.get('cancel_reason')) or 'no reason given'}")

    async def _authorized(self, member: _Member, path: str, body: Answer) -> Answer:
        """Make one call with a token; once more with a new token if it has expired."""
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
        """Get a token, if a user is configured and there is no token."""
        async with self._login:
            credentials = self._credentials.get()
            if not credentials.username or self._token is not None:
                return
            login = {"name": credentials.username, "password": credentials.password}
            try:
                answer = await self._post(member, "auth/authenticate", login)
            except RefusedError as exc:
                if _AUTH_OFF not in str(exc):
                    raise
                self._token = ""  # as flannel's client does: continue without one
            else:
                self._token = _token(answer)

    async def _post(self, member: _Member, path: str, body: Answer) -> Answer:
        """Make one call. HTTP 404 for one version's path means another version, or no gateway."""
        answer = await self._post_once(member, path, body)
        if answer is None:
            member.version = _other(member.version)
            answer = await self._post_once(member, path, body)
        if answer is None:
            raise UnreachableError(f"{member.url}: {_NO_GATEWAY}")
        return answer

    async def _post_once(self, member: _Member, path: str, body: Answer) -> Answer | None:
        """Return the answer; None if the server does not know the path: it has no gateway of that version."""
        timeout = aiohttp.ClientTimeout(total=CALL_S, sock_connect=CONNECT_S)
        try:
            async with await self._request(member, path, body, self._headers(), timeout) as response:
                check_head(response)
                status = response.status
                if status == 200:
                    return decode(await read_body(response, BOUNDS))
                answer = decode_refusal(await read_refusal(response))
        except _FAILURES as exc:
            raise _error(member, exc) from exc
        if status == 404 and not answer:
            return None
        raise refusal(status, answer, member.url)

    async def _request(
        self, member: _Member, path: str, body: Answer, headers: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:  # not earlier: it belongs to the loop that runs now
            self._session = make_session()
        return await self._session.post(
            f"{member.url}{member.version}/{path}",
            json=body,
            headers=headers,
            timeout=limits,
            ssl=self._credentials.get().tls or True,
            allow_redirects=False,
        )

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}


def _token(answer: Answer) -> str:
    """Return the token of a login, which becomes a header of every later request."""
    token = answer.get("token", "")
    if not isinstance(token, str) or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise GatewayError("the store's token is not a line of text")
    learn(token)
    return token


def _other(version: str) -> str:
    return next(other for other in _VERSIONS if other != version)


def _error(member: _Member, exc: Exception) -> StoreError:
    """Return the GatewayError for one of _FAILURES."""
    if isinstance(exc, GatewayError):
        return exc
    text = f"{member.url}: {cause_of(exc)}"
    return TooLargeError(text) if isinstance(exc, TooLargeError) else UnreachableError(text)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Enable TCP keep-alive, so that an idle watch ends if the other host is gone."""
    transport = response.connection.transport if response.connection is not None else None
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
