"""TLS to a real etcd: certificates that Go accepts, files that are replaced, and files that cannot be used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import aclosing
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from structlog.testing import capture_logs

from tests.etcd import EtcdServer, running
from tests.openssl import openssl
from tests.patience import PATIENCE_S
from tests.registry.cluster import Cluster, name, quickly, text, vtep
from tests.registry.following import Follower, until
from vxland.config.flannel import EtcdSettings
from vxland.model.errors import ConfigError
from vxland.model.lease import Lease, Snapshot
from vxland.registry import tls
from vxland.registry.etcd.credentials import open_credentials
from vxland.registry.etcd.registry import EtcdRegistry
from vxland.registry.reread import ReReadFiles

pytestmark = pytest.mark.packages  # etcd, openssl

PEER = Lease(IPv4Network("10.244.1.0/24"), vtep(1))
LATER = Lease(IPv4Network("10.244.200.0/24"), vtep(2))
CURVE = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def put(cluster: Cluster, held: Lease) -> None:
    """Write another node's entry."""
    cluster.server.ctl("put", f"{cluster.prefix}/subnets/{name(held)}", text(held))


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CA, and one certificate for server and client."""
    folder = tmp_path_factory.mktemp("pems")

    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(
        folder,
        f"req -x509 {curve} -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
        f"req {curve} -keyout key.pem -out csr.pem -subj /CN=node",
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out cert.pem -days 2",
        "ec -in key.pem -aes256 -passout pass:secret -out locked.pem",
    )
    return {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "locked")}


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, pems: dict[str, Path]) -> Iterator[EtcdServer]:
    """A server that requires client certificates."""
    with running(EtcdServer(tmp_path_factory.mktemp("tls"), tls=pems)) as server:
        yield server


def files_of(pems: dict[str, Path]) -> dict[str, str]:
    """Return the settings for these files."""
    return {"ca_file": str(pems["ca"]), "cert_file": str(pems["cert"]), "key_file": str(pems["key"])}


async def test_tls_with_a_client_certificate(tls_server: EtcdServer, pems: dict[str, Path], tmp_path: Path) -> None:
    """publish() and watch() work; with only the CA the server refuses us, and health reports it."""
    cluster = Cluster(tls_server, "/tls", tmp_path)
    cluster.define()
    put(cluster, PEER)
    files = {"ca_file": str(pems["ca"]), "cert_file": str(pems["cert"]), "key_file": str(pems["key"])}
    registry = cluster.registry(files)
    assert len(await registry.publish({4: vtep(0)})) == 1
    async with aclosing(registry.watch()) as events:
        assert await anext(events) == Snapshot(frozenset({PEER}))
    for less in ({"ca_file": files["ca_file"]}, {key: files[key] for key in ("cert_file", "key_file")}):
        unauthenticated = cluster.registry(less)
        waiting = asyncio.create_task(unauthenticated.net_conf())
        await until(lambda: unauthenticated.health.error)  # noqa: B023  (it is awaited in this very turn)
        assert tls_server.url in unauthenticated.health.error
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await cluster.close()


def test_files_that_tls_cannot_use_are_named(cluster: Cluster, pems: dict[str, Path], tmp_path: Path) -> None:
    """The error names the setting at once; an encrypted key is refused, without a prompt on the terminal."""
    (tmp_path / "empty.pem").touch()
    files = {name: str(path) for name, path in pems.items()} | {"empty": str(tmp_path / "empty.pem")}
    for key, settings in (
        ("etcd.ca_file", {"ca_file": files["empty"]}),
        ("etcd.ca_file", {"ca_file": "/nowhere.pem"}),
        ("etcd.cert_file", {"cert_file": files["empty"], "key_file": files["key"]}),
        ("etcd.cert_file", {"cert_file": files["cert"], "key_file": files["locked"]}),
    ):
        with pytest.raises(ConfigError, match=r"name (a|the) (PEM )?file") as refused:
            cluster.registry(settings, endpoints=["https://127.0.0.1:1"])
        assert refused.value.key == key


def sign(folder: Path, ca: str = "ca", config: str = "", extensions: str = "", new: str = CURVE) -> dict[str, Path]:
    """Create an authority with `config`, and its server certificate with `extensions`, in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "ca.cnf").write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\n{config}\n")
    (folder / "ext").write_text(f"subjectAltName=IP:127.0.0.1\n{extensions}\n")
    openssl(
        folder,
        f"req -x509 {new} -config ca.cnf -keyout {ca}.key -out {ca}.pem -subj /CN=ca -days 2",
        f"req {new} -keyout key.pem -out csr.pem -subj /CN=node",
        f"x509 -req -in csr.pem -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -extfile ext -out cert.pem -days 2",
    )
    return {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}


class Strict(ssl.SSLContext):
    """A context with the defaults of Python 3.13, in any version of Python."""

    def __new__(cls, protocol: int) -> Self:
        """Make one."""
        made = super().__new__(cls, protocol)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made


BASIC = "basicConstraints=CA:TRUE"
NO_KEY_IDS = "subjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"


@pytest.mark.parametrize(
    ("config", "extensions", "new"),
    [
        (f"{NO_KEY_IDS}{BASIC}", NO_KEY_IDS, CURVE),
        (f"{BASIC},pathlen:0", "", "-newkey rsa:1024 -nodes"),
        (f"{BASIC}\nkeyUsage=keyCertSign", "keyUsage=digitalSignature", CURVE),
    ],
    ids=["no key identifiers", "short keys, and basicConstraints that are not critical", "no cRLSign"],
)
async def test_authorities_that_go_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, extensions: str, new: str
) -> None:
    """With Python 3.13 every connection to such a cluster failed; etcdctl and flanneld accept it.

    The test turns the check of Python 3.13 on in any version, and vxland must turn it off.
    """
    pems = sign(tmp_path / "pki", config=config, extensions=extensions, new=new)
    monkeypatch.setattr(tls, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": Strict}))
    with running(EtcdServer(tmp_path / "etcd", tls=pems, weak=True)) as server:
        cluster = Cluster(server, "/tls", tmp_path)
        cluster.define()
        registry = cluster.registry(files_of(pems), sleep=quickly)
        async with asyncio.timeout(PATIENCE_S):
            assert (await registry.net_conf()).vni == 1
        await cluster.close()


async def test_an_intermediate_authority_can_be_the_one_that_is_trusted(tmp_path: Path) -> None:
    """Go accepts any certificate of the file as a root; the file may contain other text and damaged blocks."""
    folder = tmp_path / "pki"
    sign(folder, ca="root", config=BASIC)
    (folder / "sub").write_text(BASIC)
    openssl(
        folder,
        f"req {CURVE} -keyout ca.key -out sub.csr -subj /CN=sub",
        "x509 -req -in sub.csr -CA root.pem -CAkey root.key -CAcreateserial -extfile sub -out ca.pem -days 2",
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out cert.pem -days 2",
    )
    pems = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}
    block = b"-----BEGIN CERTIFICATE-----\r\n%b\r\n-----END CERTIFICATE-----\r\n"
    bundle = "Zertifikate für Zürich\r\n".encode() + block % b"AAAA" + block % b"?" + pems["ca"].read_bytes()
    (folder / "bundle.pem").write_bytes(bundle.replace(b"\n", b"\r\n"))
    with running(EtcdServer(tmp_path / "etcd", tls=pems, weak=True)) as server:
        cluster = Cluster(server, "/tls", tmp_path)
        cluster.define()
        registry = cluster.registry({**files_of(pems), "ca_file": str(folder / "bundle.pem")}, sleep=quickly)
        async with asyncio.timeout(PATIENCE_S):
            assert (await registry.net_conf()).vni == 1
        await cluster.close()


async def test_what_go_refuses_is_refused(tmp_path: Path) -> None:
    """The server has another address than the certificate, or an authority that is not trusted."""
    pems = sign(tmp_path / "pki", config=BASIC)
    other = sign(tmp_path / "other", config=BASIC)
    with running(EtcdServer(tmp_path / "etcd", tls=pems)) as server:
        cluster = Cluster(server, "/tls", tmp_path)
        cluster.define()
        for settings, url in (
            (files_of(pems), server.url.replace("127.0.0.1", "localhost")),
            ({**files_of(pems), "ca_file": str(other["ca"])}, server.url),
        ):
            registry = cluster.registry(settings, endpoints=[url], sleep=quickly)
            waiting = asyncio.create_task(registry.net_conf())
            await until(lambda: "certificate" in registry.health.error)  # noqa: B023  (awaited in this very turn)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await cluster.close()


async def test_certificates_that_are_replaced_are_used_from_the_next_connection_on(tmp_path: Path) -> None:
    """After all certificates on disk were replaced, no connection was possible until a restart.

    Incomplete files, a certificate without its key, and files that are missing for a moment end no connection.
    """
    old, new = sign(tmp_path / "old", config=BASIC), sign(tmp_path / "new", config=BASIC)
    live = tmp_path / "live"
    live.mkdir()
    files = {name: live / f"{name}.pem" for name in old}
    for kind, path in old.items():
        files[kind].write_bytes(path.read_bytes())
    server = EtcdServer(tmp_path / "etcd", tls=files)
    with running(server):
        cluster = Cluster(server, "/tls", tmp_path)
        cluster.define()
        put(cluster, PEER)
        registry = cluster.registry(files_of(files), sleep=quickly)
        async with aclosing(registry.watch()) as events:
            follower = Follower(events)
            await follower.until(PEER)
            server.stop()
            with capture_logs() as logged:
                files["key"].write_bytes(new["key"].read_bytes())  # no pair
                await until(lambda: "credentials_unreadable" in [entry["event"] for entry in logged])
                files["ca"].write_bytes(new["ca"].read_bytes()[:100])  # half written
                files["cert"].unlink()
                await until(lambda: not registry._gateway._credentials.read_again())
                for kind, path in new.items():
                    files[kind].write_bytes(path.read_bytes())
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(put, cluster, LATER)
                await follower.until(PEER, LATER)
            assert [entry["event"] for entry in logged].count("credentials_unreadable") <= 4
        await cluster.close()


def test_a_password_file_is_read_again(tmp_path: Path) -> None:
    """A changed password needed a restart of every node. A newline at the end is no part of it."""
    path = tmp_path / "password"
    path.write_text("swordfish\n")
    settings = EtcdSettings.model_validate({"username": "flannel", "password_file": str(path)})
    fresh = ReReadFiles(lambda: open_credentials(settings))
    found = [fresh.get().password]
    (tmp_path / "new").write_text("marlin")
    (tmp_path / "new").replace(path)
    found.append(fresh.get().password)
    path.unlink()
    found.append(fresh.get().password)
    assert found == ["swordfish", "marlin", "marlin"]
    assert "marlin" not in repr(fresh.get())
    with pytest.raises(ConfigError) as refused:
        EtcdRegistry(settings, dict)
    assert refused.value.key == "etcd.password_file"


async def test_a_changed_password_is_used_for_the_next_login(own_cluster: Cluster, tmp_path: Path) -> None:
    """After the password is changed in etcd and in the file, the node continues."""
    ctl = own_cluster.server.ctl
    for words in ("user add root:secret", "user grant-role root root", "auth enable"):
        ctl(*words.split())
    path = tmp_path / "password"
    path.write_text("secret")
    registry = own_cluster.registry({"username": "root", "password_file": str(path)}, sleep=quickly)
    assert len(await registry.publish({4: vtep(0)})) == 1
    ctl("--user=root:secret", "user", "passwd", "root", "--interactive=false", stdin="hidden\n")
    path.write_text("hidden")
    own_cluster.server.stop()
    await asyncio.to_thread(own_cluster.server.start)
    assert len(await registry.publish({4: vtep(0)})) == 1
    ctl("--user=root:hidden", "auth", "disable")
