"""Settings from flanneld's flags, variables and configuration file."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.cli.flanneld.command_line import KUBE, at, refused
from vxland.cli.flanneld import Command, parse
from vxland.cli.flanneld.flag_table import FLAGS
from vxland.cli.flanneld.go_flags import Flag
from vxland.config import Listen, Settings, settings_of


def test_kube_flannels_own_command_line() -> None:
    """The command and environment of kube-flannel.yml give the expected settings."""
    environ = {
        "POD_NAME": "kube-flannel-ds-x",
        "POD_NAMESPACE": "kube-flannel",
        "EVENT_QUEUE_DEPTH": "5000",
        "CONT_WHEN_CACHE_NOT_READY": "false",
        "PATH": "/bin",
    }
    command = parse(["--ip-masq", "--kube-subnet-mgr", "--healthz-port=8081"], environ)
    expected = {
        "registry": {"kind": "kube"},
        "firewall": {"masquerade": True, "forward": True},
        "metrics": {"listen": "0.0.0.0:8081"},
        "probe": {"interval_s": 0},
        "overlay": {"subnet_env_mtu": "flannel"},
    }
    assert command == Command(settings_of(expected), Path("/run/flannel/subnet.env"), "info")


def test_nothing_given() -> None:
    """Defaults are flanneld's: etcd on this machine, forwarding accepted, no masquerade, no metrics."""
    command = parse([], {})
    settings = command.settings
    assert settings.registry.kind == "etcd"
    assert settings.etcd.endpoints == ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
    assert (settings.etcd.prefix, settings.etcd.renew_margin_min) == ("/coreos.com/network", 60)
    assert (settings.firewall.masquerade, settings.firewall.fully_random) == (False, True)
    assert (settings.firewall.forward, settings.firewall.resync_s, settings.firewall.blackhole) == (True, 5, False)
    assert settings.metrics.listen is None
    assert settings.underlay == Settings().underlay
    assert (command.notes, command.log_level) == ((), "info")


TLS = ("--etcd-endpoints=https://192.0.2.1:2379", "--etcd-certfile=/c.pem", "--etcd-keyfile=/k.pem")


SET = [  # flag, value, other flags it needs, setting, value of the setting
    ("etcd-endpoints", "http://a:1,http://b:2", (), "etcd.endpoints", ("http://a:1", "http://b:2")),
    ("etcd-endpoints", "192.0.2.1:2379, b:2", (), "etcd.endpoints", ("http://192.0.2.1:2379", "http://b:2")),
    ("etcd-endpoints", "192.0.2.1:2379", TLS[1:], "etcd.endpoints", ("https://192.0.2.1:2379",)),
    ("etcd-prefix", "/net", (), "etcd.prefix", "/net"),
    ("etcd-keyfile", "/k2.pem", TLS[:2], "etcd.key_file", Path("/k2.pem")),
    ("etcd-certfile", "/c2.pem", (TLS[0], TLS[2]), "etcd.cert_file", Path("/c2.pem")),
    ("etcd-cafile", "/ca.pem", TLS, "etcd.ca_file", Path("/ca.pem")),
    ("etcd-username", "u", ("--etcd-password=p",), "etcd.username", "u"),
    ("etcd-password", "p", ("--etcd-username=u",), "etcd.password", "p"),
    ("iface", "eth1", (), "underlay.interface", ("eth1",)),
    ("iface", "192.0.2.1", (), "underlay.interface", ("192.0.2.1",)),
    ("iface-regex", "eth[01]", (), "underlay.interface_regex", ("eth[01]",)),
    ("iface-can-reach", "192.0.2.9", (), "underlay.can_reach", ip_address("192.0.2.9")),
    ("public-ip", "192.0.2.1", (), "underlay.address", ip_address("192.0.2.1")),
    ("public-ip", "192.0.2.1", ("--iface=eth1",), "underlay.public_address", ip_address("192.0.2.1")),
    ("public-ip", "192.0.2.1", ("--iface-regex=eth",), "underlay.public_address", ip_address("192.0.2.1")),
    ("public-ip", "192.0.2.1", ("--iface-can-reach=192.0.2.9",), "underlay.public_address", ip_address("192.0.2.1")),
    ("public-ipv6", "fd00::1", (), "underlay.address_v6", ip_address("fd00::1")),
    ("public-ipv6", "fd00::1", ("--iface=eth1",), "underlay.public_address_v6", ip_address("fd00::1")),
    ("subnet-lease-renew-margin", "1439", (), "etcd.renew_margin_min", 1439),
    ("ip-masq", "true", (), "firewall.masquerade", True),
    ("ip-masq-fully-random-disable", "true", (), "firewall.fully_random", False),
    ("iptables-forward-rules", "false", (), "firewall.forward", False),
    ("iptables-resync", "60", (), "firewall.resync_s", 60),
    ("ip-blackhole-route", "true", (), "firewall.blackhole", True),
    ("kube-subnet-mgr", "true", (), "registry.kind", "kube"),
    ("kube-subnet-mgr", "false", (), "registry.kind", "etcd"),
    ("kube-api-url", "https://192.0.2.1:6443", (KUBE,), "kube.api_url", "https://192.0.2.1:6443"),
    ("kubeconfig-file", "/kube/config", (KUBE,), "kube.kubeconfig", Path("/kube/config")),
    ("kube-annotation-prefix", "example.org/net", (KUBE,), "kube.annotation_prefix", "example.org/net"),
    ("net-config-path", "/net-conf.json", (KUBE,), "kube.net_conf", Path("/net-conf.json")),
    ("set-node-network-unavailable", "false", (KUBE,), "kube.set_network_unavailable", False),
    ("healthz-port", "8081", (), "metrics.listen", Listen(ip_address("0.0.0.0"), 8081)),  # noqa: S104  (flanneld's)
    ("healthz-ip", "127.0.0.1", ("--healthz-port=1",), "metrics.listen", Listen(ip_address("127.0.0.1"), 1)),
    ("healthz-ip", "::1", ("--healthz-port=1",), "metrics.listen", Listen(ip_address("::1"), 1)),
    ("healthz-ip", "192.0.2.1", (), "metrics.listen", None),
]


NOT_SETTINGS = {"subnet-file", "version", "v", "vmodule", "log_backtrace_at", "vxland-config"}


@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize(("flag", "value", "needs", "setting", "wanted"), SET)
def test_every_flag_and_variable(
    by: str, flag: str, value: str, needs: tuple[str, ...], setting: str, wanted: object
) -> None:
    """Each flag sets its setting, from the command line and from the environment, without a note for the log."""
    variable = "FLANNELD_" + flag.upper().replace("-", "_")
    argv, environ = ([*needs, f"--{flag}={value}"], {}) if by == "flag" else (list(needs), {variable: value})
    command = parse(argv, environ)
    assert at(command.settings, setting) == wanted
    assert command.notes == ()


def test_the_tests_know_every_flag() -> None:
    """A new flag needs a test."""
    assert {flag.name for flag in FLAGS} == {flag for flag, *_ in SET} | NOT_SETTINGS


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_the_command_line_wins(flag: Flag) -> None:
    """A variable is read only if the command line lacks its flag."""
    value = {"switch": flag.default, "number": "1", "text": flag.default, "list": "eth7"}[flag.kind]
    command = parse([f"--{flag.name}={value}"], {flag.variable: "\0 no value of any kind"})
    assert command.settings == parse([f"--{flag.name}={value}"], {}).settings


def test_flags_that_are_no_settings() -> None:
    """The path of subnet.env, and klog's verbosity as a log level, are no settings."""
    assert parse(["--subnet-file", "/x/subnet.env"], {}).subnet_file == Path("/x/subnet.env")
    assert parse([], {"FLANNELD_SUBNET_FILE": "/y"}).subnet_file == Path("/y")
    assert [parse([f"-v={v}"], {}).log_level for v in ("-1", "0", "1", "10")] == ["info", "info", "debug", "debug"]
    assert parse([], {"FLANNELD_V": "4"}).log_level == "debug"


OWN = {
    "security": {"source_check": "strict", "sources": {"203.0.113.7": ["10.0.0.9"]}, "user": "vxland"},
    "probe": {"interval_s": 10},
    "datapath": {"workers": 2},
    "control": {"socket": "/run/x/control.sock"},
}


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_file_for_settings_without_a_flag(by: str, tmp_path: Path) -> None:
    """Its sections are added to the flags' settings; without `probe` no peer is pinged."""
    path = tmp_path / "own.yaml"
    argv = ["--ip-masq", *([f"--vxland-config={path}"] if by == "flag" else [])]
    environ = {"FLANNELD_VXLAND_CONFIG": str(path)} if by == "variable" else {}
    flags = {"registry": {"kind": "etcd"}, "firewall": {"masquerade": True, "forward": True}, "metrics": {"listen": ""}}
    endpoints = {"etcd": {"endpoints": ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]}}
    for own in (OWN, {"security": OWN["security"]}):
        path.write_text(json.dumps(own))
        command = parse(argv, environ)
        ours = {"probe": {"interval_s": 0}, "overlay": {"subnet_env_mtu": "flannel"}}
        assert command.settings == settings_of({**flags, **endpoints, **ours, **own})
        assert (command.path, command.notes) == (path, ())


def test_such_a_file_may_change_one_setting_of_the_overlay(tmp_path: Path) -> None:
    """Other settings keep the values of flanneld's flags; settings that the cluster defines stay refused."""
    path = tmp_path / "own.yaml"
    flag = f"--vxland-config={path}"
    for text, mtu, form in (("{mtu: 1400}", 1400, "flannel"), ("{subnet_env_mtu: smallest}", None, "smallest")):
        path.write_text(f"overlay: {text}\n")
        overlay = parse([flag], {}).settings.overlay
        assert (overlay.mtu, overlay.subnet_env_mtu) == (mtu, form)
    path.write_text("overlay: {vni: 5}\n")
    assert refused(flag).startswith("overlay.vni: 5: leave it out with registry.kind etcd")


def test_such_a_file_may_ask_for_names_of_pods(tmp_path: Path) -> None:
    """The other settings of the section keep the values of the flags."""
    path = tmp_path / "own.yaml"
    path.write_text("kube: {pod_names: true}\n")
    settings = parse([KUBE, "--kube-api-url=http://127.0.0.1:1", f"--vxland-config={path}"], {}).settings
    assert (settings.kube.pod_names, settings.kube.api_url) == (True, "http://127.0.0.1:1")


def test_refused_sections_of_such_a_file(tmp_path: Path) -> None:
    """The file must exist, must be valid, and must not set what flags set."""
    path = tmp_path / "own.yaml"
    flag = f"--vxland-config={path}"
    why = "'No such file or directory': name a configuration file that can be read"
    assert refused(flag) == f"--vxland-config: {why}"
    assert refused(FLANNELD_VXLAND_CONFIG=f"{tmp_path}/./own.yaml") == f"FLANNELD_VXLAND_CONFIG: {why}"
    path.write_text("underlay: {ttl: 5}\nsecurity: {}\nregistry: {kind: static}\n")
    assert refused(flag).splitlines() == [
        f"{section}: {str(path)!r}: leave it out: this file may have security, probe, datapath, control, "
        "overlay, kube.pod_names, and flags set the rest"
        for section in ("underlay", "registry")
    ]
    for text in ("kube: {pod_names: true, api_url: https://x}", "kube: 5"):
        path.write_text(text)
        assert refused(KUBE, flag).startswith(f"kube: {str(path)!r}: leave it out")
    path.write_text("kube: {pod_names: 5}")
    assert refused(KUBE, flag).startswith("kube.pod_names: 5: ")
    path.write_text("security: {input_filter: nftables, source_check: off}\nprobe: {interval: 5}\n")
    assert [line.partition(":")[0] for line in refused(flag, "--iptables-resync=0").splitlines()] == [
        "--iptables-resync",
        "probe.interval",
        "security.input_filter",
    ]


def test_interfaces_keep_their_order() -> None:
    """--iface and --iface-regex may be repeated in any order."""
    command = parse(
        ["-iface", "eth1", "--iface-regex=^b", "--iface=eth0", "--iface-regex", "a$", "-iface=10.0.0.1"], {}
    )
    assert command.settings.underlay.interface == ("eth1", "eth0", "10.0.0.1")
    assert command.settings.underlay.interface_regex == ("^b", "a$")


def test_etcd_settings_do_not_matter_with_kubernetes() -> None:
    """Invalid flags of the registry that is not used are accepted."""
    assert parse([KUBE, "--etcd-endpoints=x y", "--etcd-username=u"], {}).settings.registry.kind == "kube"
    assert parse(["--kube-api-url=nowhere"], {}).settings.registry.kind == "etcd"
