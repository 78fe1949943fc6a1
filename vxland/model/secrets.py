"""Secrets in texts: those that this process has read, and others that show by their form. Pure.

Code that reads a secret calls learn(). Errors and log events pass masked(), so that a store's answer, a URL or the
message of a library that quotes one reaches no log. In an archive that people post, what follows a name such as
`password:` is masked too; in the text of an error that would be the remedy.
"""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "(removed)"
MIN_LEN: Final = 4
"""Characters of a secret that is looked for; a shorter one is part of ordinary words."""

_MOST: Final = 64
"""Secrets that are kept, the latest: a token of Kubernetes is replaced every hour."""

_known: Final[deque[tuple[str, ...]]] = deque(maxlen=_MOST)

_NAME: Final = r"[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|key-data|credentials?)"
_URL: Final = re.compile(r"(?<=://)[^\s'\"<>]+")
_FORMS: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:[A-Za-z0-9+/=:,\s-]|\\[nr])*"  # PEM, its line ends perhaps escaped
    r"|(?<=\bBearer )[^\s'\",]+|(?<=\bBasic )[A-Za-z0-9+/=_-]{8,}"
    r"|\beyJ[\w-]{8,999}\.[\w-]+\.[\w-]*"  # a JSON Web Token, RFC 7519; its header is short
)
_PAIRS: Final = re.compile(
    rf"(?P<name>(?<![\w.-])(?:--?)?{_NAME}[\"']?\s*(?:=|:\s|:$|:(?=[\"']))\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|\S.*)"
    rf"|(?P<flag>(?<![\w-])--?{_NAME})(?P<word>\s+\S+)",
    re.IGNORECASE | re.MULTILINE,
)
_SECRET_KEY: Final = re.compile(rf"{_NAME}\Z", re.IGNORECASE)


def learn(secret: str) -> None:
    """Have masked() remove this secret, as it is and as JSON, URLs and HTTP headers write it."""
    if len(secret) < MIN_LEN:
        return
    forms = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}
    forms.add(base64.b64encode(secret.encode(errors="surrogatepass")).decode())
    ordered = tuple(sorted(forms, key=len, reverse=True))
    if ordered not in _known:
        _known.append(ordered)


def masked(text: str) -> str:
    """Return the text without secrets that are known, or that show by their form."""
    for form in _forms():
        if form in text:
            text = text.replace(form, MASK)
    return _FORMS.sub(MASK, _URL.sub(_without_user, text))


def archived(text: str) -> str:
    """Return the text for an archive: masked, and without what follows the name of a secret, to the end of its line."""
    return _PAIRS.sub(_without_value, masked(text))


def archived_json(value: Any) -> Any:  # noqa: ANN401  (as JSON has it)
    """Return a value of JSON with every text in it archived(), and with no value for a key that names a secret."""
    if isinstance(value, str):
        return archived(value)
    if isinstance(value, dict):
        return {
            archived(key): MASK if isinstance(each, str) and each and _SECRET_KEY.search(key) else archived_json(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [archived_json(each) for each in value]
    return value


def _forms() -> Iterator[str]:
    for forms in tuple(_known):
        yield from forms


def _without_user(found: re.Match[str]) -> str:
    """Return what follows `://` without user and password, which end at the last `@`."""
    user, _, rest = found[0].rpartition("@")
    return f"{MASK}@{rest}" if user else found[0]


def _without_value(found: re.Match[str]) -> str:
    if found["flag"] is not None:
        return f"{found['flag']} {MASK}"
    return f"{found['name']}{MASK}"
