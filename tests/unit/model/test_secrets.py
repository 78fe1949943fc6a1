"""Secrets in texts: known ones in every spelling, others by their form, and what an archive leaves out besides."""

from __future__ import annotations

import base64
import html
import json
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from tests.patience import PATIENCE_S
from vxland.model import secrets
from vxland.model.errors import ConfigError, VxlandError
from vxland.model.secrets import MASK, archived, archived_json, learn, masked
from vxland.registry.errors import MAX_ERROR, StoreError

WORD = 'hunter2 "ü/%'


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Leave no secret to other tests."""
    yield
    secrets._known.clear()


@pytest.mark.parametrize(
    "form",
    [
        WORD,
        json.dumps(WORD),
        json.dumps(WORD, ensure_ascii=False),
        repr(WORD),
        repr(WORD.encode()),
        html.escape(WORD),
        quote(WORD, safe=""),
        quote(WORD, safe="").lower(),
        quote_plus(WORD),
        WORD.encode().hex(),
        base64.b64encode(WORD.encode()).decode(),
        base64.urlsafe_b64encode(WORD.encode()).decode().rstrip("="),
    ],
)
def test_a_known_secret(form: str) -> None:
    """It is removed as it is, and as JSON, Python, URLs and HTTP headers spell it."""
    learn(WORD)
    assert "hunter2" not in masked(f"it said {form}, twice {form}")
    assert masked(f"it said {form}, twice {form}").count(MASK) == 2
    assert base64.b64encode(WORD.encode()).decode() not in masked(form)


@pytest.mark.parametrize("user", ["", "r", "ro", "roo", "root:"])
def test_a_known_secret_inside_base64(user: str) -> None:
    """Basic authentication has the user before the password, so that base64 of the password alone is not in it."""
    learn("hunter2-hunter2")
    header = base64.b64encode(f"{user}hunter2-hunter2 and more".encode()).decode()
    (left, right) = masked(f"sent {header}").split(MASK)
    assert (
        "hunter"
        not in base64.b64decode(left.removeprefix("sent ") + "=" * (-len(left.removeprefix("sent ")) % 4)).decode()
    )
    assert "nter2" not in repr(right)


def test_errors_do_not_quote_it() -> None:
    """A store repeated the password in its answer, and the error went to log, status and terminal."""
    learn("hunter2")
    assert str(VxlandError("invalid password hunter2")) == f"invalid password {MASK}"
    assert "hunter2" not in str(ConfigError("etcd.password", "x", "not hunter2"))
    assert "hunt" not in str(StoreError("x" * (MAX_ERROR - 5) + "hunter2"))  # cut in the middle


def test_short_words_are_none() -> None:
    """A password of three characters would be removed from ordinary words."""
    learn("the")
    learn("")
    assert masked("there is the store") == "there is the store"


def test_only_the_latest_are_kept() -> None:
    """A token that is replaced every hour takes no memory without end."""
    for number in range(1000):
        learn(f"token-{number:04}")
    assert len(secrets._known) == secrets._MOST
    assert masked("token-0999 token-0000") == f"{MASK} token-0000"


KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nIAbc+/=\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to https://root:hunter2@10.0.0.5:2379: refused", f"to https://{MASK}@10.0.0.5:2379: refused"),
        ("to https://root:hu/nt?er2@etcd", f"to https://{MASK}@etcd"),
        ("Authorization: Bearer abc.def-_", f"Authorization: Bearer {MASK}"),
        ("Basic cm9vdDpodW50ZXIy, x", f"Basic {MASK}, x"),
        ("'eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrOHMifQ.c2ln'", f"'{MASK}'"),
        (f"key: {KEY.strip()}", f"key: {MASK}"),
        ("https://u:p@a/@b?q=eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrOHMifQ.c2ln", f"https://{MASK}@b?q={MASK}"),
        ("a://u@b://v@c", f"a://{MASK}@c"),
        ("http://@b", "http://@b"),
        ("http://10.0.0.5:2379 and a@b", "http://10.0.0.5:2379 and a@b"),
        ("etcd.password: '**********': write text", "etcd.password: '**********': write text"),
        ("Basic rules, eyJ", "Basic rules, eyJ"),
    ],
)
def test_forms_of_secrets(text: str, expected: str) -> None:
    """URLs with a user, headers, JSON Web Tokens and PEM keys are found without being known; other texts are not."""
    assert masked(text) == expected


@pytest.mark.parametrize(
    "word",
    [
        *("://", "://a@", "://?", "eyJaaaaaaaa-", "-----BEGIN A ", "-.", "a:b@"),
        *("password: ", "password:\n ", "token='", f"password:{' ' * 1000}"),
    ],
)
def test_a_hostile_text(word: str) -> None:
    """A megabyte of `://` in a store's answer kept the daemon busy for 40 minutes."""
    code = f"from vxland.model.secrets import archived; archived({word!r} * (1_000_000 // {len(word)}))"
    subprocess.run((sys.executable, "-c", code), check=True, timeout=PATIENCE_S)


def test_a_key_with_escaped_line_ends() -> None:
    """An error quotes a file's content with repr()."""
    assert "MHcCAQEE" not in masked(repr(KEY))
    assert "IAbc" not in masked(repr(KEY))


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2",
        "  password:   two hunter2 words, and more",
        "password:\n  hunter2",
        "etcd.password=hunter2",
        "FLANNELD_ETCD_PASSWORD=hunter2",
        '{"password": "hunter2", "x": 1}',
        "{'token': 'hunter2'}",
        "flanneld --etcd-password hunter2 -iface e0",
        "flanneld -etcd-password=hunter2",
        "client-key-data: hunter2",
        "my_secret=hunter2",
        "X-Api-Key: hunter2",
        "privateKey: hunter2",
        "passphrase: hunter2",
        "password:hunter2",
        "passcode := hunter2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "secretKey: hunter2",
        "pre-shared-key: hunter2",
        "db.pwd=hunter2",
        "psk=hunter2",
        "creds: hunter2",
        "authorization: hunter2",
        'Authorization: Digest username="a", response="hunter2"',
        "Set-Cookie: id=hunter2; path=/",
        "password: |\n  a\n  hunter2\nuser: x",
        "password: >-\n  hunter2",
        "tokens-of-mine.token:\n- a\n- hunter2",
        "password: 'a''hunter2'",
        "{'password': b'hunter2'}",
        "--password 'a hunter2' --x",
        "GET http://10.0.0.5:2379/v3?sig=hunter2 failed",
        "proxy root:hunter2@10.0.0.9:3128",
        "BEARER hunter2",
    ],
)
def test_what_follows_a_name(text: str) -> None:
    """An archive has no value behind a name of a secret, in YAML, JSON, an environment or a command line."""
    assert "hunter2" not in archived(text)
    assert MASK in archived(text)


@pytest.mark.parametrize(
    "text",
    [
        "bypass: 5",
        "10.244.0.0:9473",
        "2: eth0@if3: <UP>",
        "ce:5f:f6:73:cf:b9",
        "fd00::1:2379",
        "password_file: /etc/vxland/pw",
        "the token has expired",
        "tokens: 5",
        "kubeconfig: /etc/k",
        ":INPUT DROP [0:0]",
    ],
)
def test_other_names(text: str) -> None:
    """Paths of secrets, and words about them, stay."""
    assert archived(text) == text


def test_json() -> None:
    """Values behind such keys are removed, whatever they are; other texts are archived."""
    value = {
        "etcd": {"password": "a", "username": "root", "endpoints": "https://u:p@h"},
        "list": ["Bearer abc", 5, None, True],
        "env": [{"name": "ETCD_PASSWORD", "value": "a"}, {"name": "PATH", "value": "/bin"}],
        "token": {"a": ["b"]},
        "secrets": [12345678],
        "has_token": True,
        "password": "",
        "key": "etcd.password",
    }
    assert archived_json(value) == {
        "etcd": {"password": MASK, "username": "root", "endpoints": f"https://{MASK}@h"},
        "list": [f"Bearer {MASK}", 5, None, True],
        "env": [{"name": "ETCD_PASSWORD", "value": MASK}, {"name": "PATH", "value": "/bin"}],
        "token": MASK,
        "secrets": MASK,
        "has_token": True,
        "password": "",
        "key": "etcd.password",
    }
