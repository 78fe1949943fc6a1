"""The API server's URL and credentials: service account, kubeconfig, URL; each error has key and remedy."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.openssl import openssl
from vxland.config.flannel import KubeSettings
from vxland.model.errors import ConfigError
from vxland.registry.kube.credentials import Access, open_access
from vxland.registry.reread import ReReadFiles

URL = "https://192.168.111.128:6443"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cert.pem and its key.pem."""
    folder = tmp_path_factory.mktemp("pki")
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tested -keyout key.pem -out cert.pem")
    return folder


def config(
    folder: Path,
    cluster: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    **rest: object,
) -> KubeSettings:
    """Return settings that name a kubeconfig of this cluster and user."""
    doc = {
        "current-context": "here",
        "contexts": [
            {"name": "there", "context": {"cluster": "far", "user": "nobody"}},
            {"name": "here", "context": {"cluster": "near", "user": "me"}},
        ],
        "clusters": [{"name": "far", "cluster": {}}, {"name": "near", "cluster": {"server": URL, **(cluster or {})}}],
        "users": [{"name": "me", "user": dict(user or {})}],
        **rest,
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(doc))
    return KubeSettings.model_validate({"kubeconfig": str(path)})


def access(settings: KubeSettings, **environ: str) -> Access:
    """Return the Access of the settings, on a machine that is no pod."""
    return open_access(settings, environ)


def encoded(raw: bytes) -> str:
    """Return base64, as kubeconfig's -data keys have it."""
    return base64.b64encode(raw).decode()


@pytest.mark.packages
def test_a_pod_finds_server_and_token_by_itself(pki: Path, tmp_path: Path) -> None:
    """The service account's files, and the kubelet's environment variables, are enough."""
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_bytes((pki / "cert.pem").read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    found = open_access(KubeSettings(), environ, tmp_path)
    assert (found.url, found.headers) == ("https://10.96.0.1:443", {"Authorization": "Bearer secret"})
    assert found.tls is not None
    assert found.tls.verify_mode == ssl.CERT_REQUIRED
    assert len(found.tls.get_ca_certs()) == 1
    environ["KUBERNETES_SERVICE_HOST"] = "fd00::1"
    assert open_access(KubeSettings(), environ, tmp_path).url == "https://[fd00::1]:443"


@pytest.mark.packages
def test_a_new_token_is_used(pki: Path, tmp_path: Path) -> None:
    """The kubelet replaces it every hour; other files may be replaced too."""
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_bytes((pki / "cert.pem").read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    fresh = ReReadFiles(lambda: open_access(KubeSettings(), environ, tmp_path))
    first = fresh.get()
    assert fresh.get() is first
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").replace(tmp_path / "token")
    assert fresh.get().headers == {"Authorization": "Bearer two"}


def test_outside_a_pod_a_server_must_be_named() -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST") as caught:
        access(KubeSettings())
    assert caught.value.key == "kube.kubeconfig"


def test_a_pod_without_service_account_says_what_is_missing(tmp_path: Path) -> None:
    """A Pod may have automountServiceAccountToken off."""
    with pytest.raises(ConfigError) as caught:
        open_access(KubeSettings(), {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}, tmp_path)
    assert caught.value.key == str(tmp_path / "token")


def test_a_url_alone_comes_without_credentials() -> None:
    """As in flanneld: kubectl proxy and the like."""
    found = access(KubeSettings(api_url="http://127.0.0.1:8001/"))
    assert (found.url, found.headers, found.tls) == ("http://127.0.0.1:8001", {}, None)
    assert access(KubeSettings(api_url=URL)).tls is not None


def test_a_url_takes_the_place_of_the_kubeconfigs(tmp_path: Path) -> None:
    """The credentials are still the file's."""
    settings = config(tmp_path, user={"token": "secret"}).model_copy(update={"api_url": "https://10.0.0.1:6443"})
    found = access(settings)
    assert (found.url, found.headers) == ("https://10.0.0.1:6443", {"Authorization": "Bearer secret"})


def test_a_password_in_a_url_is_refused() -> None:
    """It would appear in logs; the error does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        access(KubeSettings(api_url="https://me:secret@10.0.0.1"))
    assert "secret" not in str(caught.value)


def test_tokens_and_passwords_become_headers(tmp_path: Path) -> None:
    """A token file precedes a token, and a token precedes a password; paths are relative to the kubeconfig."""
    (tmp_path / "my.token").write_text("filed\n")
    user = {"username": "me", "password": "pw"}
    assert access(config(tmp_path, user=user)).headers == {"Authorization": f"Basic {encoded(b'me:pw')}"}
    user |= {"token": "inline"}
    assert access(config(tmp_path, user=user)).headers == {"Authorization": "Bearer inline"}
    user |= {"tokenFile": "my.token"}
    found = access(config(tmp_path, user=user))
    assert found.headers == {"Authorization": "Bearer filed"}
    assert set(found.files) == {tmp_path / "kubeconfig", tmp_path / "my.token"}


@pytest.mark.packages
def test_a_server_in_capitals_keeps_its_authority(pki: Path, tmp_path: Path) -> None:
    """A kubeconfig with HTTPS://... silently lost its authority, and every connection failed."""
    found = access(
        config(tmp_path, {"server": "HTTPS://10.0.0.1:6443/", "certificate-authority": str(pki / "cert.pem")})
    )
    assert found.url == "https://10.0.0.1:6443"
    assert found.tls is not None
    assert len(found.tls.get_ca_certs()) == 1


@pytest.mark.packages
def test_certificates_come_from_files_or_data(pki: Path, tmp_path: Path) -> None:
    """Both forms of authority and key pair are read; data precedes files."""
    cert, key = pki / "cert.pem", pki / "key.pem"
    filed = access(
        config(
            tmp_path,
            {"certificate-authority": str(cert)},
            {"client-certificate": str(cert), "client-key": str(key)},
        )
    )
    assert filed.tls is not None
    assert len(filed.tls.get_ca_certs()) == 1
    assert set(filed.files) == {tmp_path / "kubeconfig", cert, key}
    data = {"client-certificate-data": encoded(cert.read_bytes()), "client-key-data": encoded(key.read_bytes())}
    inline = access(
        config(
            tmp_path,
            {"certificate-authority-data": encoded(cert.read_bytes()), "certificate-authority": "gone"},
            {**data, "client-certificate": "gone", "client-key": "gone"},
        )
    )
    assert set(inline.files) == {tmp_path / "kubeconfig"}


def test_a_server_may_go_unchecked_or_by_another_name(tmp_path: Path) -> None:
    """insecure-skip-tls-verify and tls-server-name."""
    found = access(config(tmp_path, {"insecure-skip-tls-verify": True, "tls-server-name": "kubernetes"}))
    assert found.tls is not None
    assert (found.tls.verify_mode, found.tls.check_hostname) == (ssl.CERT_NONE, False)
    assert found.server_name == "kubernetes"


@pytest.mark.parametrize(
    ("where", "entry", "key"),
    [
        ("user", {"exec": {"command": "aws"}}, "users me exec"),
        ("user", {"auth-provider": {"name": "gcp"}}, "users me auth-provider"),
        ("user", {"as": "admin"}, "users me as"),
        ("cluster", {"proxy-url": "http://p:3128"}, "clusters near proxy-url"),
        ("cluster", {"server": "192.168.111.128:6443"}, "clusters near server"),
        ("cluster", {"server": None}, "clusters near server"),
        ("cluster", {"server": 7}, "clusters near server"),
        ("cluster", {"certificate-authority-data": "%"}, "clusters near certificate-authority-data"),
        ("user", {"token": 12345}, "users me token"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, where: str, entry: dict[str, object], key: str) -> None:
    """The error has file, entry, key and remedy."""
    settings = config(tmp_path, **{where: entry})
    with pytest.raises(ConfigError) as caught:
        access(settings)
    assert caught.value.key == f"{tmp_path / 'kubeconfig'}: {key}"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("rest", "key"),
    [
        ({"current-context": None}, "current-context"),
        ({"current-context": "nowhere"}, "contexts"),
        ({"contexts": 7}, "contexts"),
        ({"contexts": [7, {"name": "here"}, {"name": "here", "context": []}]}, "contexts"),
        ({"clusters": []}, "clusters"),
        ({"users": [{"name": "you", "user": {}}]}, "users"),
    ],
)
def test_a_broken_kubeconfig_says_where(tmp_path: Path, rest: dict[str, object], key: str) -> None:
    """The error names the missing entry and its section."""
    settings = config(tmp_path, **rest)  # type: ignore[arg-type]  # any keyword
    with pytest.raises(ConfigError) as caught:
        access(settings)
    assert caught.value.key == f"{tmp_path / 'kubeconfig'}: {key}"


@pytest.mark.parametrize("text", ["{", "- a", "", "\0", "a: 2026-99-99", "[" * 1500])
def test_what_is_no_kubeconfig_is_a_config_error(tmp_path: Path, text: str) -> None:
    """Any content of the file is a Login or a ConfigError."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError):
        access(KubeSettings(kubeconfig=path))


def test_bad_yaml_is_reported_by_its_place_alone(tmp_path: Path) -> None:
    """The line is not repeated, because it may hold a token, and the error is logged."""
    path = tmp_path / "kubeconfig"
    path.write_text("users:\n- name: me\n  user:\n    token: hush: hush\n")
    with pytest.raises(ConfigError, match="line 4, column ") as caught:
        access(KubeSettings.model_validate({"kubeconfig": str(path)}))
    assert "hush" not in str(caught.value)


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigError) as caught:
        access(KubeSettings(kubeconfig=tmp_path / "gone"))
    assert (caught.value.key, caught.value.value) == ("kube.kubeconfig", str(tmp_path / "gone"))


@pytest.mark.packages
def test_bad_certificates_are_refused_with_their_file(pki: Path, tmp_path: Path) -> None:
    """So are a key of another certificate, and one with a passphrase."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ConfigError, match="PEM") as caught:
        access(config(tmp_path, {"certificate-authority": str(junk)}))
    assert caught.value.key == str(junk)
    locked = tmp_path / "locked.pem"
    openssl(pki, f"rsa -aes128 -passout pass:secret -in key.pem -out {locked}")
    for key in (junk, locked):
        with pytest.raises(ConfigError, match="without a passphrase") as caught:
            access(config(tmp_path, user={"client-certificate": str(pki / "cert.pem"), "client-key": str(key)}))
        assert caught.value.key == str(pki / "cert.pem")


def test_a_token_that_is_none_is_refused(tmp_path: Path) -> None:
    """It would break the request, or inject a header."""
    (tmp_path / "t").write_bytes(b"a\r\nX: y")
    with pytest.raises(ConfigError, match="one line"):
        access(config(tmp_path, user={"tokenFile": "t"}))


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither a repr nor a traceback's locals show the token."""
    assert "hidden-words" not in repr(access(config(tmp_path, user={"token": "hidden-words"})))
