"""The API server's URL and credentials: of the pod's service account, a kubeconfig file, or a bare URL.

Other programs replace the files: the kubelet a token every hour, an administrator a certificate. See reread.py.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vxland.config.flannel import KubeSettings
from vxland.config.values import normal_url
from vxland.model.errors import ConfigError
from vxland.model.secrets import learn
from vxland.registry.kube.kubeconfig import Login, read_kubeconfig
from vxland.registry.reread import read, states
from vxland.registry.tls import client_context, load_client_cert, load_client_cert_pem

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """A server, and the credentials for it."""

    url: str
    """Without a trailing slash."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None
    """None if the URL is http."""

    server_name: str | None = None
    """The name that the server's certificate must have, if it is not the URL's."""

    files: Mapping[Path, object] = field(default_factory=dict)
    """The files read, with their state then."""


def open_access(settings: KubeSettings, environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Return the Access of the settings, or else the pod's; ConfigError of the key or file at fault.

    As in flanneld, api_url replaces the kubeconfig's server; without a kubeconfig it has no credentials.
    """
    if settings.kubeconfig is not None:
        return _access(read_kubeconfig(settings.kubeconfig), settings.api_url)
    if settings.api_url is not None:
        return _access(Login(url=settings.api_url, files=()), None)
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        remedy = "name the API server or a kubeconfig file: this is no pod: KUBERNETES_SERVICE_HOST is not set"
        raise ConfigError("kube.kubeconfig", None, remedy)
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    token, ca = service_account / "token", service_account / "ca.crt"
    return _access(Login(url=url, files=(token, ca), token_file=token, ca_file=ca), None)


def _access(login: Login, url: str | None) -> Access:
    url = normal_url(url or login.url)
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            "kube.api_url", url.rpartition("@")[2], "leave user and password out of it: name a kubeconfig"
        )
    files = states(login.files)
    headers = {}
    learn(login.password)
    token = read(login.token_file).decode(errors="replace").strip() if login.token_file else login.token
    learn(token)
    if token:
        if not token.isascii() or not token.isprintable():
            raise ConfigError(str(login.token_file or "token"), "not a token", "put one line of ASCII text there")
        headers["Authorization"] = f"Bearer {token}"
    elif login.username:
        pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        learn(pair)
        headers["Authorization"] = f"Basic {pair}"
    tls = _tls(login) if url.startswith("https:") else None
    return Access(url, headers, tls, login.server_name, files)


def _tls(login: Login) -> ssl.SSLContext:
    ca = read(login.ca_file) if login.ca_file else login.ca
    try:
        context = client_context(ca or None)
    except ValueError as exc:
        where = str(login.ca_file or "certificate-authority-data")
        raise ConfigError(where, "no certificates", f"put the authority's PEM certificates there: {exc}") from exc
    if login.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    cert = read(login.cert_file) if login.cert_file else login.cert
    key = read(login.key_file) if login.key_file else login.key
    if cert or key:
        try:
            if login.cert_file and login.key_file:
                load_client_cert(context, login.cert_file, login.key_file)
            else:
                load_client_cert_pem(context, (cert or b"") + b"\n" + (key or b""))
        except ValueError as exc:
            where = str(login.cert_file or "client-certificate-data")
            raise ConfigError(where, "no key pair", str(exc)) from exc
    return context
