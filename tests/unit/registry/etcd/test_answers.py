"""Answers of the gateway, whole and in parts, and invalid ones."""

from __future__ import annotations

import pytest

from vxland.registry.etcd.answers import (
    Answer,
    CompactedError,
    CredentialsError,
    GatewayError,
    RefusedError,
    TokenError,
    UnreachableError,
    base64_field,
    decode,
    header,
    number,
    objects,
    refusal,
)


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (400, {"message": "etcdserver: mvcc: required revision has been compacted", "code": 11}, CompactedError),
        (400, {"error": "etcdserver: authentication failed, invalid user ID or password", "code": 3}, CredentialsError),
        (400, {"error": "etcdserver: user name is empty", "code": 3}, CredentialsError),
        (401, {"error": "etcdserver: invalid auth token", "code": 16}, TokenError),
        (400, {"error": "etcdserver: revision of auth store is old", "code": 3}, TokenError),
        (403, {"error": "etcdserver: permission denied", "code": 7}, RefusedError),
        (503, {"error": "etcdserver: no leader", "code": 14}, UnreachableError),
        (504, {"error": "etcdserver: request timed out", "code": 4}, UnreachableError),
        (502, {}, UnreachableError),
        (503, {"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}, UnreachableError),
        (200, {"error": {"grpc_code": 16, "message": "etcdserver: invalid auth token"}}, TokenError),
        (404, {}, UnreachableError),
    ],
)
def test_a_refusal_has_the_class_of_its_remedy(status: int, answer: Answer, kind: type[GatewayError]) -> None:
    """Each class of error has its remedy: a new list, other credentials, a new login, another member."""
    error = refusal(status, answer, "http://etcd")
    assert type(error) is kind
    found = answer.get("message") or answer.get("error") or f"HTTP {status}"
    assert str(error) == f"http://etcd: {found['message'] if isinstance(found, dict) else found}"


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"null", b"{", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_no_answer(raw: bytes) -> None:
    """Another program may listen there."""
    with pytest.raises(ValueError, match="does not answer as etcd"):
        decode(raw)


@pytest.mark.parametrize("wrong", [[], {}, "x", "1.5", None, "9" * 5000])
def test_fields_of_the_wrong_type_are_refused(wrong: object) -> None:
    """The error is retried, and never ends the watch."""
    answer = {"field": wrong, "header": wrong if isinstance(wrong, dict) else 7}
    with pytest.raises(GatewayError):
        number(answer, "field")
    if wrong != {}:
        with pytest.raises(GatewayError):
            header(answer, "revision")
    if wrong != []:
        with pytest.raises(GatewayError):
            objects(answer, "field")
    if wrong != "9" * 5000:
        with pytest.raises(GatewayError):
            base64_field(answer, "field")


def test_zero_values_are_left_out() -> None:
    """64-bit numbers are text; without `kvs` the list is empty."""
    assert number({"revision": "9223372036854775807"}, "revision") == 2**63 - 1
    assert (number({}, "lease"), header({}, "revision"), objects({}, "kvs"), base64_field({}, "value")) == (
        0,
        0,
        [],
        b"",
    )
