"""Secrets in texts: those that this process has read, and others that show by their form. Pure.

Code that reads a secret calls learn(). Errors and log events pass masked(), so that a store's answer, a URL or the
message of a library that quotes one reaches no log. In an archive that people post, what follows a name such as
`password:` is masked too; in the text of an error that would be the remedy.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "(removed)"
MIN_LEN: Final = 4
"""Characters of a secret that is looked for; a shorter one is part of ordinary words."""

_MOST: Final = 64
"""Secrets that are kept, the latest: a token of Kubernetes is replaced every hour."""

_known: Final[deque[tuple[str, ...]]] = deque(maxlen=_MOST)

_NAME: Final = (
    r"(?:[\w.-]*(?:passw(?:or)?ds?|passphrase|passcode|secrets?|token|(?:api|access|private|shared|secret|auth)[_-]?key"
    r"|key-data|credentials?|authorization|cookie|signature)"
    r"|(?:[\w.-]*[_.-])?(?:pass|pwd|psk|creds|auth))"
)
_URL: Final = re.compile(r"(?<=://)[^\s'\"<>]+")
_FORMS: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,\s-]|\\[nr])*"  # PEM, with real or escaped \n
    r"|(?<=\bBearer )[^\s'\",]+|(?<=\bBasic )[A-Za-z0-9+/=_-]{8,}"
    r"|\beyJ[\w-]{8,999}\.[\w-]+\.[\w-]*"  # a JSON Web Token, RFC 7519; its header is short
)
_USER: Final = re.compile(r"(?<![\w.%+:/@-])[\w.%+-]{1,99}:[^\s:@/'\"]{1,999}@(?=[\w\[])")
_BLOCK: Final = r"[ \t]*(?:[|>][-+0-9]*[ \t]*)?(?:\n[ \t]+\S[^\n]*|\n-[^\n]*)+"  # what YAML has on lines of its own
_PAIRS: Final = re.compile(
    rf"(?P<name>(?<![\w.-])(?:--?)?{_NAME}[\"']?\s*?(?:=>?|:=|:(?!//)))"
    rf"(?P<value>{_BLOCK}|\s*(?:\"(?:[^\"\\]|\\.)*\"|b?'(?:[^'\\]|''|\\.)*'|\S[^\n]*))"
    rf"|(?P<flag>(?<![\w.-])--?{_NAME})(?P<word>\s+(?:\"[^\"]*\"|'[^']*'|\S+))"
    r"|(?P<scheme>\bbearer )[^\s'\",]+",
    re.IGNORECASE | re.MULTILINE,
)
_SECRET_KEY: Final = re.compile(rf"(?<![\w.-]){_NAME}\Z", re.IGNORECASE)
_GO_ESCAPES: Final = str.maketrans({each: f"\\u{ord(each):04x}" for each in "<>&"})
_SHORTEST_CORE: Final = 6
"""Characters of base64 that are looked for inside a longer text."""


def learn(secret: str) -> None:
    """Have masked() remove this secret, as it is and as JSON, URLs and HTTP headers write it."""
    if len(secret) < MIN_LEN:
        return
    forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], html.escape(secret)}
    forms.add(json.dumps(secret, ensure_ascii=False)[1:-1].translate(_GO_ESCAPES))
    raw = secret.encode(errors="surrogatepass")
    for escaped in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        forms |= {escaped, re.sub("%..", lambda found: found[0].lower(), escaped)}
    forms |= {raw.hex(), repr(raw)[2:-1], *_base64_forms(raw)}
    ordered = tuple(sorted(forms, key=len, reverse=True))
    if ordered not in _known:
        _known.append(ordered)


def _base64_forms(raw: bytes) -> Iterator[str]:
    """Yield the text in base64, and what a longer text in base64 that contains it has of it."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        yield encode(raw).decode().rstrip("=")
        for before in range(3):
            code = encode(bytes(before) + raw).decode()
            whole = (before + len(raw)) * 8 // 6  # characters that do not depend on what follows
            core = code[-(-before * 8 // 6) : whole]
            if len(core) >= _SHORTEST_CORE:
                yield core


def masked(text: str) -> str:
    """Return the text without secrets that are known, or that show by their form."""
    for form in _forms():
        if form in text:
            text = text.replace(form, MASK)
    return _FORMS.sub(MASK, _URL.sub(_without_user, text))


def archived(text: str) -> str:
    """Return the text for an archive: masked, without queries of URLs, and without what follows the name of a secret.

    That is a text in quotes, a YAML block, or else everything to the end of the line.
    """
    return _PAIRS.sub(_without_value, _USER.sub(f"{MASK}@", _URL.sub(_without_query, masked(text))))


def archived_json(value: Any) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return a value of JSON with every text in it archived(), and with no value for a key that names a secret."""
    if isinstance(value, str):
        return archived(value)
    if isinstance(value, dict):
        name = value.get("name")  # a variable in an environment of Kubernetes has it beside its "value"
        secret = {"value"} if isinstance(name, str) and _SECRET_KEY.search(name) else set[str]()
        secret |= {key for key in value if _SECRET_KEY.search(key)}
        return {
            archived(key): MASK if key in secret and _holds(each) else archived_json(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [archived_json(each) for each in value]
    return value


def _holds(value: object) -> bool:
    """Return whether a value can be a secret: empty ones, None and booleans cannot."""
    return bool(value) and not isinstance(value, bool)


def _forms() -> Iterator[str]:
    for forms in tuple(_known):
        yield from forms


def _without_user(found: re.Match[str]) -> str:
    """Return what follows `://` without user and password, which end at the last `@`."""
    user, _, rest = found[0].rpartition("@")
    return f"{MASK}@{rest}" if user else found[0]


def _without_query(found: re.Match[str]) -> str:
    path, mark, query = found[0].partition("?")
    return f"{path}{mark}{MASK if query else ''}"


def _without_value(found: re.Match[str]) -> str:
    if found["flag"] is not None:
        return f"{found['flag']} {MASK}"
    if found["scheme"] is not None:
        return f"{found['scheme']}{MASK}"
    return f"{found['name']} {MASK}"
