"""Configuration files with flannel's stores: keys that the store defines, and keys that belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.configs import problems
from vxland.cli.main import main
from vxland.config import parse, settings_of
from vxland.model.errors import InvalidConfigError

KINDS = ["etcd", "kube"]
STATIC: dict[str, Any] = {"overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24"}}
TLS = {
    "endpoints": ["https://192.0.2.1:2379", "https://192.0.2.2:2379"],
    "ca_file": "/pki/ca.pem",
    "cert_file": "/pki/node.pem",
    "key_file": "/pki/node-key.pem",
}
HTTPS = "write https://, or name no certificates"
BY_STORE = "the cluster's network configuration, net-conf.json, defines it"


def of_kind(kind: str, **sections: dict[str, Any]) -> str:
    """Return a file with this registry and these sections."""
    return yaml.safe_dump({"registry": {"kind": kind}, **sections})


@pytest.mark.parametrize("kind", KINDS)
def test_naming_the_store_is_enough(kind: str) -> None:
    """The cluster defines the rest; sections with every key commented out have no effect."""
    settings = parse(f"registry: {{kind: {kind}}}\netcd:\nkube:\n")
    assert settings.registry.kind == kind
    assert (settings.networks, settings.own_subnets) == ((), ())
    assert settings.etcd.endpoints == ("http://127.0.0.1:2379",)
    assert settings.kube.net_conf == Path("/etc/kube-flannel/net-conf.json")


def test_every_setting_of_etcd() -> None:
    """Values are typed; one endpoint needs no list, and the password is not printed."""
    etcd = {**TLS, "prefix": "/net", "username": "u", "password": "hush", "renew_margin_min": 5}
    settings = parse(of_kind("etcd", etcd=etcd, overlay={"mtu": 1400, "mac": "02:00:00:00:00:01"})).etcd
    assert settings.endpoints == tuple(TLS["endpoints"])
    assert (settings.ca_file, settings.cert_file, settings.key_file) == (
        Path("/pki/ca.pem"),
        Path("/pki/node.pem"),
        Path("/pki/node-key.pem"),
    )
    assert (settings.prefix, settings.username, settings.renew_margin_min) == ("/net", "u", 5)
    assert settings.password.get_secret_value() == "hush"
    assert "hush" not in repr(settings)
    one = parse(of_kind("etcd", etcd={"endpoints": "http://192.0.2.1:2379/"}))
    assert one.etcd.endpoints == ("http://192.0.2.1:2379",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "10.244.0.0/16"),
        ("subnet", "10.244.0.0/24"),
        ("vni", 1),
        ("port", 8472),
        ("device", "flannel.1"),
    ],
)
def test_the_store_defines_the_overlay(kind: str, name: str, value: object) -> None:
    """The key is refused even with the default value: it would have no effect."""
    found = problems(of_kind(kind, overlay={name: value}))
    assert found == [(f"overlay.{name}", value, f"leave it out with registry.kind {kind}: {BY_STORE}")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_knows_the_peers_and_the_flavour(kind: str) -> None:
    """Peers and the flavour of rules come from the cluster alone; in the file they are refused."""
    peer = {"subnet": "10.244.1.0/24", "vtep": "192.0.2.2", "mac": "02:00:00:00:00:01"}
    text = yaml.safe_dump({"registry": {"kind": kind, "peers": [peer]}, "firewall": {"flavour": "nftables"}})
    assert problems(text) == [
        (
            "firewall.flavour",
            "nftables",
            f"leave it out with registry.kind {kind}: EnableNFTables of the cluster's network configuration decides",
        ),
        ("registry.peers", "1 of them", f"leave them out with registry.kind {kind}: the store knows the nodes"),
    ]


@pytest.mark.parametrize(
    ("kind", "section", "name", "value"),
    [
        ("static", "etcd", "prefix", "/net"),
        ("kube", "etcd", "renew_margin_min", 60),
        ("static", "kube", "node_name", "node1"),
        ("etcd", "kube", "set_network_unavailable", False),
    ],
)
def test_a_section_of_another_registry(kind: str, section: str, name: str, value: object) -> None:
    """A key that is not read is refused, and the remedy names the registry that reads it."""
    base = STATIC if kind == "static" else {}
    found = problems(of_kind(kind, **base, **{section: {name: value}}))
    assert found == [(f"{section}.{name}", value, f"leave it out with registry.kind {kind}: only {section} reads it")]


def test_addresses_of_two_families_are_for_stores() -> None:
    """A static network has one tunnel; with a store each family has a tunnel and a key."""
    remedy = "leave it out with registry.kind static: all VTEPs share the family of underlay.address"
    text = of_kind("static", **STATIC, underlay={"address_v6": "fd00::1", "public_address_v6": "fd00::2"})
    assert problems(text) == [
        ("underlay.address_v6", "fd00::1", remedy),
        ("underlay.public_address_v6", "fd00::2", remedy),
    ]
    both = {"address": "192.0.2.1", "public_address": "203.0.113.7", "address_v6": "fd00::1"}
    assert problems(of_kind("kube", underlay={**both, "public_address_v6": "fd00::2"})) == []
    mixed = {"address": "fd00::1", "public_address_v6": "203.0.113.7"}
    remedy = "write it as underlay.{}: with registry.kind kube each family has a tunnel of its own"
    assert problems(of_kind("kube", underlay=mixed)) == [
        ("underlay.address", "fd00::1", remedy.format("address_v6")),
        ("underlay.public_address_v6", "203.0.113.7", remedy.format("public_address")),
    ]


@pytest.mark.parametrize(
    ("name", "value", "key", "remedy"),
    [
        ("key_file", ..., "key_file", "give it too, or leave etcd.cert_file out: they go together"),
        ("cert_file", ..., "cert_file", "give it too, or leave etcd.key_file out: they go together"),
        ("username", "u", "password", "give it too, or leave etcd.username out: they go together"),
        ("password", "p", "username", "give it too, or leave etcd.password out: they go together"),
    ],
)
def test_keys_of_etcd_that_belong_together(name: str, value: object, key: str, remedy: str) -> None:
    """A certificate without its key, or a user without a password, would end in an unclear error of the server."""
    etcd = {key: value for key, value in TLS.items() if key != name} | ({} if value is ... else {name: value})
    assert problems(of_kind("etcd", etcd=etcd)) == [(f"etcd.{key}", None, remedy)]


def test_a_password_may_be_in_a_file() -> None:
    """The file is an alternative to the setting; both together are refused."""
    etcd = {"username": "u", "password_file": "/run/secrets/etcd"}
    assert parse(of_kind("etcd", etcd=etcd)).etcd.password_file == Path("/run/secrets/etcd")
    remedy = "leave it out, or etcd.password"
    assert problems(of_kind("etcd", etcd={**etcd, "password": "p"})) == [
        ("etcd.password_file", "/run/secrets/etcd", remedy)
    ]
    remedy = "give it too, or leave etcd.password_file out: they go together"
    assert problems(of_kind("etcd", etcd={"password_file": "/p"})) == [("etcd.username", None, remedy)]


def test_a_scheme_has_no_case() -> None:
    """HTTPS://... was no https: its certificates were refused, or not used."""
    etcd = {**TLS, "endpoints": ["HTTPS://192.0.2.1:2379", "hTTps://192.0.2.2:2379/"]}
    assert parse(of_kind("etcd", etcd=etcd)).etcd.endpoints == tuple(TLS["endpoints"])
    assert parse(of_kind("kube", kube={"api_url": "HTTPS://192.0.2.1"})).kube.api_url == "https://192.0.2.1"


@pytest.mark.parametrize("name", ["ca_file", "cert_file"])
def test_certificates_need_https(name: str) -> None:
    """Certificates have no effect over plain http, so they are refused."""
    files = {"ca_file": "/ca.pem"} if name == "ca_file" else {"cert_file": "/c.pem", "key_file": "/k.pem"}
    urls = ["https://192.0.2.1:2379", "http://192.0.2.2:2379"]
    assert problems(of_kind("etcd", etcd={"endpoints": urls, **files})) == [("etcd.endpoints[1]", urls[1], HTTPS)]
    assert problems(of_kind("etcd", etcd=files)) == [("etcd.endpoints", "http://127.0.0.1:2379", HTTPS)]


@pytest.mark.parametrize(
    ("section", "name", "value", "shown", "remedy"),
    [
        ("etcd", "endpoints", [], "[]", "list at least one endpoint"),
        (
            "etcd",
            "endpoints",
            "192.0.2.1:2379",
            "192.0.2.1:2379",
            "write http:// or https://, a host and a port, such as https://192.168.111.128:2379",
        ),
        ("etcd", "renew_margin_min", 1440, 1440, "use 1439 or less"),
        ("etcd", "ca_file", "", "", "name a file, such as /etc/vxland/etcd-ca.pem"),
        (
            "etcd",
            "password",
            1234,
            "**********",
            "write text; in quotes where it looks like a number or a word such as yes",
        ),
        ("etcd", "pasword", "hush", "**********", "write password: this key is not known"),
        ("etcd", "passwort", "hush", "**********", "write password: this key is not known"),
        ("firewall", "masquerade", "yes", "yes", "write true or false, without quotes"),
        ("firewall", "resync_s", 0, 0, "use 1 or more"),
        (
            "underlay",
            "interface",
            ["ens33", "eth 0"],
            "eth 0",
            "use a name without blanks, / : and %, such as flannel.1",
        ),
        (
            "underlay",
            "interface_regex",
            "eth[",
            "eth[",
            "write a regular expression as Go has them, such as eth[0-9]+: close the class with ]",
        ),
    ],
)
def test_one_mistake_is_one_problem(section: str, name: str, value: object, shown: object, remedy: str) -> None:
    """The problem has key, value and remedy; a password is not shown."""
    key = f"{section}.{name}[1]" if isinstance(value, list) and value else f"{section}.{name}"
    assert problems(of_kind("etcd", **{section: {name: value}})) == [(key, shown, remedy)]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ens33", ("ens33",)),
        (["ens33", "192.0.2.1", "fd00:0::1"], ("ens33", "192.0.2.1", "fd00::1")),
        ([], ()),
        (None, ()),
    ],
)
def test_interfaces_in_order_of_preference(written: object, read: tuple[str, ...]) -> None:
    """underlay.interface takes one name or several; addresses get their usual spelling."""
    assert parse(of_kind("kube", underlay={"interface": written})).underlay.interface == read


@pytest.mark.parametrize("kind", KINDS)
def test_check_knows_the_stores(kind: str, tmp_path: Path) -> None:
    """`vxland check` of such a file needs no running store."""
    path = tmp_path / "vxland.yaml"
    path.write_text(of_kind(kind, underlay={"interface": "not-there0"}))
    result = CliRunner().invoke(main, ["check", "-c", str(path)])
    assert (result.exit_code, result.stdout) == (0, f"{path}: good\n")


def test_check_compares_the_mtu_with_a_store_too(tmp_path: Path) -> None:
    """overlay.mtu overrides the cluster's MTU, so the underlay must carry it."""
    path = tmp_path / "vxland.yaml"
    path.write_text(of_kind("kube", underlay={"interface": "not-there0"}, overlay={"mtu": 1451}))
    result = CliRunner().invoke(main, ["check", "-c", str(path)])
    assert result.exit_code == 2
    assert result.stdout.startswith("overlay.mtu: 1451: use 1450 or less")


ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=5), max_size=3)


@given(
    st.sampled_from([*KINDS, "static"]),
    st.dictionaries(
        st.sampled_from(["overlay", "underlay", "etcd", "kube", "firewall"]),
        st.dictionaries(
            st.sampled_from(
                ["network", "vni", "mtu", "interface", "can_reach", "address_v6", "endpoints", "password", "ca_file"]
            )
            | st.text(max_size=4),
            ANYTHING | st.sampled_from(["fd00::1", "192.0.2.1", "https://a:1", "10.0.0.0/8"]),
            max_size=4,
        ),
    ),
)
def test_any_file_of_a_store_is_read_or_refused(kind: str, sections: dict[str, Any]) -> None:
    """A file raises nothing but InvalidConfigError, and each problem has a key and a remedy."""
    for key, _, remedy in problems(of_kind(kind, **sections)):
        assert key
        assert remedy


@pytest.mark.parametrize(
    ("kind", "memory", "remedy"),
    [
        ("etcd", "leases.json", "write an absolute path"),
        ("kube", 7, "put it in quotes"),
        ("static", "/var/lib/vxland/leases.json", "leave it out with registry.kind static: its peers are in this file"),
    ],
)
def test_refused_cache_files(kind: str, memory: object, remedy: str) -> None:
    """A relative path is refused, and one that a static registry would not read."""
    with pytest.raises(InvalidConfigError) as caught:
        settings_of({"registry": {"kind": kind, "memory": memory}})
    (text,) = (problem.remedy for problem in caught.value.problems if problem.key == "registry.memory")
    assert text.startswith(remedy)


def test_no_cache_file() -> None:
    """An empty path turns the lease cache off."""
    settings = settings_of({"registry": {"kind": "etcd", "memory": ""}})
    assert settings.registry.memory is None
