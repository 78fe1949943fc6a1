"""flannel's keys in etcd: the configuration, and the entries under `subnets`, listed, followed and written."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from vxland.model.text import printable
from vxland.registry.errors import MAX_ENTRIES, OverfullError, TooLargeError
from vxland.registry.etcd.answers import Answer, GatewayError, child, header, number, objects, octets
from vxland.registry.etcd.gateway import Gateway

PAGE: Final = 1000  # entries of one answer: a few hundred kB, which is decoded between two turns of the loop

_FEWER: Final = 10  # a page that is too large is asked for again with so many times fewer entries
_LONGEST_NAME = 120  # IPv4 and IPv6 subnets together have 60


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its value, the revisions that made and last changed it, and the etcd lease it ends with; 0: none."""

    key: bytes
    value: bytes
    created: int
    modified: int
    lease: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch told at once, in order; `seen` is the revision up to which nothing is missing, 0 where not told."""

    put: tuple[Entry, ...]
    deleted: frozenset[bytes]
    seen: int
    opened: bool
    """The first of a watch: it tells `revision` and `cluster`, the store's own, and no changes."""

    revision: int
    cluster: int


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some entries of a listing; `revision` and `cluster` are those of the store at its start."""

    entries: list[Entry]
    revision: int
    cluster: int


@dataclass(frozen=True, slots=True)
class Written:
    """A transaction that went through: its revision, and the keys there are now, without values, if asked for."""

    revision: int
    entries: tuple[Entry, ...]


class Store:
    """The keys of one network: `prefix` is flannel's --etcd-prefix. Methods raise StoreError."""

    def __init__(self, gateway: Gateway, prefix: str) -> None:
        self._gateway = gateway
        root = posixpath.normpath(prefix)  # as Go's path.Join, but for a leading //
        self.config_key = f"{root}/config".replace("//", "/")
        self._subnets = f"{root}/subnets/".replace("//", "/").encode()
        self._range = {"key": _text(self._subnets), "range_end": _text(self._subnets[:-1] + b"0")}  # 0 follows /

    def key(self, name: str) -> bytes:
        """The key whose last part is `name`."""
        return self._subnets + name.encode()

    def name(self, key: bytes) -> str:
        """The last part of a key; of a stranger's long one its beginning, which names no subnet."""
        name = key.removeprefix(self._subnets)[: _LONGEST_NAME + 1].decode(errors="backslashreplace")
        return printable(name, _LONGEST_NAME)

    async def config(self) -> bytes | None:
        """The network's configuration; None where there is none yet."""
        found = await self._gateway.call("kv/range", {"key": _text(self.config_key.encode())})
        entries = _entries(found)
        return entries[0].value if entries else None

    async def get(self, key: bytes) -> Entry | None:
        """One entry; None where there is none."""
        entries = _entries(await self._gateway.call("kv/range", {"key": _text(key)}))
        return entries[0] if entries else None

    async def revision(self) -> int:
        """The revision that most members agree on now."""
        return header(await self._gateway.call("kv/range", {**self._range, "count_only": True}), "revision")

    async def pages(self, *, after: bytes = b"", revision: int = 0, keys_only: bool = False) -> AsyncGenerator[KeyPage]:
        """All entries behind `after` as they were at one moment; CompactedError where the store forgets it meanwhile.

        OverfullError where there are more than MAX_ENTRIES. Pages shrink where strangers' values are too large for one.
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
        """What changes from `revision` on. CompactedError where the store has forgotten it."""
        create = {**self._range, "start_revision": revision, "progress_notify": True}
        async with aclosing(self._gateway.watch(create)) as responses:
            async for response in responses:
                yield _batch(response)

    async def grant(self, ttl_s: int) -> tuple[int, int]:
        """A new etcd lease: its id, and the seconds it lasts, which are `ttl_s` or more."""
        answer = await self._gateway.call("lease/grant", {"TTL": ttl_s})
        lasts_s = number(answer, "TTL")
        if lasts_s < ttl_s:  # it would be due again at once
            raise GatewayError(f"the store gives a lease of {lasts_s} s, and {ttl_s} s were asked for")
        return number(answer, "ID"), lasts_s

    async def revoke(self, lease: int) -> None:
        """End an etcd lease, and every key that ends with it."""
        await self._gateway.call("lease/revoke", {"ID": lease})

    async def write(
        self, key: bytes, value: bytes, lease: int, expected: int, drop: Iterable[tuple[bytes, int]] = ()
    ) -> Written | None:
        """Put `key` where it was last changed at revision `expected`, or, at 0, where it is not there.

        With it goes each key of `drop`, given with its revision too. None where any of them is no longer so.
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
        """Delete `key`, unless it was changed after revision `expected`."""
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
        seen = entry.modified  # not the header's: that may be ahead of what a slow watch was told
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
    key = octets(kv, "key")
    if not key:
        raise GatewayError("the store named an entry without a key")
    return Entry(
        key, octets(kv, "value"), number(kv, "create_revision"), number(kv, "mod_revision"), number(kv, "lease")
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
