"""flannel's keys in etcd: reads, watches and writes of the configuration and the entries under `subnets`."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from vxland.model.text import printable
from vxland.registry.errors import MAX_ENTRIES, OverfullError, TooLargeError
from vxland.registry.etcd.answers import Answer, GatewayError, base64_field, child, header, number, objects
from vxland.registry.etcd.gateway import Gateway

PAGE: Final = 250  # entries of one answer: 100 kB, decoded in 3 ms, in which no other task runs

_FEWER: Final = 10  # a page that is too large is requested again with this many times fewer entries
_LONGEST_NAME = 120  # IPv4 and IPv6 subnets together have 60


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its value, the revisions that created and last changed it, and its etcd lease; 0: none."""

    key: bytes
    value: bytes
    created: int
    modified: int
    lease: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One response of a watch; `seen` is the revision up to which no change is missing, 0 if unknown."""

    put: tuple[Entry, ...]
    deleted: frozenset[bytes]
    seen: int
    opened: bool
    """The first response: it has the store's `revision` and `cluster`, and no changes."""

    revision: int
    cluster: int


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some entries of a listing; `revision` and `cluster` are the store's when the listing began."""

    entries: list[Entry]
    revision: int
    cluster: int


@dataclass(frozen=True, slots=True)
class Written:
    """A successful transaction: its revision, and the keys after it, without values, if requested."""

    revision: int
    entries: tuple[Entry, ...]


class Store:
    """The keys of one network: `prefix` is flannel's --etcd-prefix. Methods raise StoreError."""

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self._gateway = gateway
        root = posixpath.normpath(prefix)  # as Go's path.Join, except for a leading //
        self.config_key = f"{root}/config".replace("//", "/")
        self._subnets = f"{root}/subnets/".replace("//", "/").encode()
        self._range = {"key": _text(self._subnets), "range_end": _text(self._subnets[:-1] + b"0")}  # 0 follows /

    def key(self, name: str) -> bytes:
        """Return the key whose last part is `name`."""
        return self._subnets + name.encode()

    def name(self, key: bytes) -> str:
        """Return the last part of a key; of one too long to name a subnet, the beginning."""
        name = key.removeprefix(self._subnets)[: _LONGEST_NAME + 1].decode(errors="backslashreplace")
        return printable(name, _LONGEST_NAME)

    async def config(self) -> bytes | None:
        """Return the network's configuration; None if there is none yet."""
        found = await self._gateway.call("kv/range", {"key": _text(self.config_key.encode())})
        entries = _entries(found)
        return entries[0].value if entries else None

    async def get(self, key: bytes) -> Entry | None:
        """Return one entry, or None."""
        entries = _entries(await self._gateway.call("kv/range", {"key": _text(key)}))
        return entries[0] if entries else None

    async def revision(self) -> int:
        """Return the revision that a majority of the members agree on now."""
        return header(await self._gateway.call("kv/range", {**self._range, "count_only": True}), "revision")

    async def pages(self, *, after: bytes = b"", revision: int = 0, keys_only: bool = False) -> AsyncGenerator[KeyPage]:
        """Yield all entries after the key `after`, as of one revision; CompactedError if it is compacted meanwhile.

        OverfullError beyond MAX_ENTRIES. Pages shrink if foreign values are too large for one.
        """
        limit, count = PAGE, 0
        request: dict[str, Any] = {**self._range, "keys_only": True} if keys_only else {**self._range}
        while True:
            if after:
                request["key"] = _text(after + b"\0")
            if revision:
                request["revision"] = revision
            try:
                answer = await self._gateway.call("kv/range", {**request, "limit": limit})
            except TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // _FEWER)
                continue
            revision = revision or header(answer, "revision")
            entries = _entries(answer)
            for entry in entries:
                if not entry.key > after or not entry.key.startswith(self._subnets):
                    raise GatewayError("the store's entries are not those that were asked for, in order")
                after = entry.key
            count += len(entries)
            if count > MAX_ENTRIES:
                raise OverfullError
            yield KeyPage(entries, revision, header(answer, "cluster_id"))
            if not answer.get("more") or not entries:
                return

    async def watch(self, revision: int) -> AsyncGenerator[Batch]:
        """Yield the changes from `revision` on. CompactedError if it was compacted."""
        create = {**self._range, "start_revision": revision, "progress_notify": True}
        async with aclosing(self._gateway.watch(create)) as responses:
            async for response in responses:
                yield _batch(response)

    async def grant(self, ttl_s: int) -> tuple[int, int]:
        """Create an etcd lease; return its id and its seconds, `ttl_s` or more."""
        answer = await self._gateway.call("lease/grant", {"TTL": ttl_s})
        granted_s = number(answer, "TTL")
        if granted_s < ttl_s:  # it would be due again at once
            raise GatewayError(f"the store gives a lease of {granted_s} s, and {ttl_s} s were asked for")
        return number(answer, "ID"), granted_s

    async def revoke(self, lease: int) -> None:
        """Revoke an etcd lease, and delete every key that it has."""
        await self._gateway.call("lease/revoke", {"ID": lease})

    async def write(
        self, key: bytes, value: bytes, lease: int, expected: int, drop: Iterable[tuple[bytes, int]] = ()
    ) -> Written | None:
        """Put `key` if it was last changed at revision `expected`, or, for 0, if it does not exist.

        The same transaction deletes the keys of `drop`, each given with its revision. None, and no change, if any of
        the revisions is not the current one.
        """
        gone = list(drop)
        return await self._transact(
            [_compare(key, expected), *(_compare(old, revision) for old, revision in gone)],
            [
                {"request_put": {"key": _text(key), "value": _text(value), "lease": lease}},
                *({"request_delete_range": {"key": _text(old)}} for old, _ in gone),
                {"request_range": {**self._range, "keys_only": True, "limit": PAGE}},
            ],
        )

    async def remove(self, key: bytes, expected: int) -> None:
        """Delete `key` if it was last changed at revision `expected`."""
        await self._transact([_compare(key, expected)], [{"request_delete_range": {"key": _text(key)}}])

    async def _transact(self, compare: list[Answer], success: list[Answer]) -> Written | None:
        answer = await self._gateway.call("kv/txn", {"compare": compare, "success": success})
        if not answer.get("succeeded"):
            return None
        revision, found = header(answer, "revision"), list[Entry]()
        for response in objects(answer, "responses"):
            listed = child(response, "response_range")
            found += _entries(listed)
            if listed.get("more") and found:
                async for page in self.pages(after=found[-1].key, revision=revision, keys_only=True):
                    found += page.entries
        return Written(revision, tuple(found))


def _compare(key: bytes, revision: int) -> Mapping[str, object]:
    if not revision:
        return {"key": _text(key), "target": "VERSION", "version": 0}  # flannel: registry.go createSubnet
    return {"key": _text(key), "target": "MOD", "mod_revision": revision}


def _batch(response: Answer) -> Batch:
    put: dict[bytes, Entry] = {}
    deleted: set[bytes] = set()
    seen = 0
    for event in objects(response, "events"):
        entry = _entry(child(event, "kv"))
        seen = entry.modified  # not the header's, which may be ahead of a slow watch
        if event.get("type") == "DELETE":
            put.pop(entry.key, None)
            deleted.add(entry.key)
        else:
            deleted.discard(entry.key)
            put[entry.key] = entry
    opened = bool(response.get("created"))
    revision = header(response, "revision")
    if not seen and not opened:  # a progress notification
        seen = revision
    return Batch(tuple(put.values()), frozenset(deleted), seen, opened, revision, header(response, "cluster_id"))


def _entries(answer: Answer) -> list[Entry]:
    return [_entry(kv) for kv in objects(answer, "kvs")]


def _entry(kv: Answer) -> Entry:
    key = base64_field(kv, "key")
    if not key:
        raise GatewayError("the store named an entry without a key")
    return Entry(
        key, base64_field(kv, "value"), number(kv, "create_revision"), number(kv, "mod_revision"), number(kv, "lease")
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
