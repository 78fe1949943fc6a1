"""Credentials for etcd: a client certificate, a user name and password, and the trusted authorities."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vxland.config.flannel import EtcdSettings
from vxland.model.errors import ConfigError
from vxland.model.secrets import learn
from vxland.registry.reread import read, states
from vxland.registry.tls import client_context, load_client_cert


@dataclass(frozen=True, slots=True)
class EtcdCredentials:
    """The settings' credentials, as their files were at one moment."""

    tls: ssl.SSLContext | None
    """None if every endpoint is http."""

    username: str
    password: str = field(repr=False)
    files: Mapping[Path, object]
    """The files read, with their state then."""


def open_credentials(settings: EtcdSettings) -> EtcdCredentials:
    """Read the credentials; ConfigError of a file that cannot be used."""
    paths = (settings.ca_file, settings.cert_file, settings.key_file, settings.password_file)
    files = states(path for path in paths if path is not None)
    secure = any(url.startswith("https:") for url in settings.endpoints)
    password = _password(settings)
    learn(password)
    return EtcdCredentials(_tls(settings) if secure else None, settings.username, password, files)


def _password(settings: EtcdSettings) -> str:
    path = settings.password_file
    if path is None:
        return settings.password.get_secret_value()
    try:
        text = read(path, "etcd.password_file").decode().rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise ConfigError("etcd.password_file", str(path), f"save it as UTF-8: {exc.reason}") from None
    if not text:
        raise ConfigError("etcd.password_file", str(path), "put the password there: it is empty")
    return text


def _tls(settings: EtcdSettings) -> ssl.SSLContext:
    ca, cert = settings.ca_file, settings.cert_file
    authorities = None if ca is None else read(ca, "etcd.ca_file")
    try:
        context = client_context(authorities)
    except ValueError as exc:
        raise ConfigError("etcd.ca_file", str(ca), f"name a PEM file of CA certificates: {exc}") from exc
    if cert is not None:
        try:
            load_client_cert(context, cert, settings.key_file)
        except ValueError as exc:
            remedy = f"name the PEM files of a client certificate and its key: {exc}"
            raise ConfigError("etcd.cert_file", str(cert), remedy) from exc
    return context
