"""A kubeconfig file: the server and the credentials of its current context.

Settings that run a program or ask a cloud for a token are refused by name: a node's daemon has no such program.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import yaml

from vxland.config.values import is_url
from vxland.model.errors import ConfigError
from vxland.registry.reread import read

_REFUSED: Final = {
    "exec": "use a token or a client certificate: vxland runs no credential programs",
    "auth-provider": "use a token or a client certificate: vxland has no such provider",
    "as": "use that user's own credentials: vxland impersonates nobody",
    "proxy-url": "remove it: vxland reaches the API server directly",
}


@dataclass(frozen=True, slots=True)
class Login:
    """A server and credentials as configured; a field `x_file` is the file to read instead of field `x`."""

    url: str
    files: tuple[Path, ...]
    """The files that may be replaced while we run."""

    server_name: str | None = None
    insecure: bool = False
    ca_file: Path | None = None
    ca: bytes | None = None
    cert_file: Path | None = None
    cert: bytes | None = field(default=None, repr=False)
    key_file: Path | None = None
    key: bytes | None = field(default=None, repr=False)
    token_file: Path | None = None
    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)


def read_kubeconfig(path: Path) -> Login:
    """Return the Login of the file's current context; ConfigError names the file, the entry and the remedy."""
    try:
        doc = yaml.safe_load(read(path, "kube.kubeconfig"))
    except yaml.MarkedYAMLError as exc:  # its text repeats the line, which may hold a token
        mark = exc.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError("kube.kubeconfig", str(path), f"correct the YAML there: {place}{exc.problem}") from exc
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as exc:
        text = " ".join(str(exc).split())
        raise ConfigError("kube.kubeconfig", str(path), f"correct the YAML there: {text}") from exc
    return _Reader(path, doc).login()


class _Reader:
    """The content of one file; errors name the place in it."""

    def __init__(self, path: Path, doc: object) -> None:
        self._path = path
        self._doc = doc

    def login(self) -> Login:
        context_name = self._text(self._doc, "current-context", "")
        if not context_name:
            self._refuse("current-context", None, "name one of the contexts there")
        context = self._named("contexts", "context", context_name)
        where = f"contexts {context_name}"
        cluster_name, user_name = (self._text(context, key, where) for key in ("cluster", "user"))
        cluster = self._named("clusters", "cluster", cluster_name)
        user = self._named("users", "user", user_name) if user_name else {}
        of_cluster, of_user = f"clusters {cluster_name}", f"users {user_name}"
        for entry, where in ((cluster, of_cluster), (user, of_user)):
            for refused in _REFUSED.keys() & entry.keys():
                if entry[refused]:
                    self._refuse(f"{where} {refused}", "set", _REFUSED[refused])
        url = self._text(cluster, "server", of_cluster)
        if not is_url(url):
            self._refuse(
                f"{of_cluster} server", url, "write the API server's URL, such as https://192.168.111.128:6443"
            )
        ca_file, cert_file, token_file = (
            self._path_in(entry, key, where)
            for entry, key, where in (
                (cluster, "certificate-authority", of_cluster),
                (user, "client-certificate", of_user),
                (user, "tokenFile", of_user),
            )
        )
        ca, cert, key = (
            self._base64_bytes(entry, name, where)
            for entry, name, where in (
                (cluster, "certificate-authority-data", of_cluster),
                (user, "client-certificate-data", of_user),
                (user, "client-key-data", of_user),
            )
        )
        key_file = self._path_in(user, "client-key", of_user)
        # Data goes before files, and a token file before a token: client-go's order.
        ca_file, cert_file, key_file = (
            None if data else file for data, file in ((ca, ca_file), (cert, cert_file), (key, key_file))
        )
        return Login(
            url=url,
            files=tuple(file for file in (self._path, ca_file, cert_file, key_file, token_file) if file),
            server_name=self._text(cluster, "tls-server-name", of_cluster) or None,
            insecure=cluster.get("insecure-skip-tls-verify") is True,
            ca_file=ca_file,
            ca=ca,
            cert_file=cert_file,
            cert=cert,
            key_file=key_file,
            key=key,
            token_file=token_file,
            token="" if token_file else self._text(user, "token", of_user),
            username=self._text(user, "username", of_user),
            password=self._text(user, "password", of_user),
        )

    def _named(self, section: str, kind: str, name: str) -> dict[str, object]:
        """Return the entry `name` of a section; entries have a name and a `kind`."""
        entries = self._doc.get(section) if isinstance(self._doc, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            found = entry.get(kind) if isinstance(entry, dict) and entry.get("name") == name else None
            if isinstance(found, dict):
                return found
        return self._refuse(section, name, f"add a {kind} of that name, or name another")

    def _text(self, entry: object, key: str, where: str) -> str:
        value = entry.get(key) if isinstance(entry, dict) else None
        if value is None:
            return ""
        if not isinstance(value, str):
            self._refuse(f"{where} {key}".lstrip(), type(value).__name__, "write text, in quotes")
        return value

    def _path_in(self, entry: dict[str, object], key: str, where: str) -> Path | None:
        text = self._text(entry, key, where)
        return self._path.parent / text if text else None

    def _base64_bytes(self, entry: dict[str, object], key: str, where: str) -> bytes | None:
        text = self._text(entry, key, where)
        try:
            return base64.b64decode(text, validate=True) if text else None
        except (binascii.Error, ValueError):
            return self._refuse(f"{where} {key}", "set", "write it in base64, on one line")

    def _refuse(self, key: str, value: object, remedy: str) -> NoReturn:
        raise ConfigError(f"{self._path}: {key}", value, remedy)
