"""flanneld's command line: Go's syntax, every flag and variable, and what becomes of them."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vxland import __version__
from vxland.cli.flanneld import Command, help_text, parse
from vxland.cli.flanneld.flag_table import ENVIRONMENT, FLAGS
from vxland.cli.flanneld.go_flags import Flag
from vxland.cli.main import main
from vxland.config import Listen, Settings, settings_of
from vxland.model.errors import FlagError, InvalidConfigError

ROOT = Path(__file__).parents[4]
KUBE = "--kube-subnet-mgr"


def at(settings: Settings, path: str) -> object:
    """The value of a setting such as `etcd.prefix`."""
    section, key = path.split(".")
    value = getattr(getattr(settings, section), key)
    return value.get_secret_value() if key == "password" else value


def refused(*argv: str, **environ: str) -> str:
    """Why a command line is refused; one line for each problem."""
    with pytest.raises((FlagError, InvalidConfigError)) as caught:
        parse(argv, environ)
    return str(caught.value)


def test_kube_flannels_own_command_line() -> None:
    """The command and the environment of kube-flannel.yml."""
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
    """The defaults of flanneld: etcd on this machine, forwarding accepted, nothing masqueraded, nothing served."""
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
    """What each becomes, from the command line and from the environment, without a word for the log."""
    variable = "FLANNELD_" + flag.upper().replace("-", "_")
    argv, environ = ([*needs, f"--{flag}={value}"], {}) if by == "flag" else (list(needs), {variable: value})
    command = parse(argv, environ)
    assert at(command.settings, setting) == wanted
    assert command.notes == ()


def test_the_tests_know_every_flag() -> None:
    """A flag that is added is tested."""
    assert {flag.name for flag in FLAGS} == {flag for flag, *_ in SET} | NOT_SETTINGS


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_the_command_line_wins(flag: Flag) -> None:
    """The environment is asked for what the command line does not give, and not even read for the rest."""
    value = {"switch": flag.default, "number": "1", "text": flag.default, "list": "eth7"}[flag.kind]
    command = parse([f"--{flag.name}={value}"], {flag.variable: "\0 no value of any kind"})
    assert command.settings == parse([f"--{flag.name}={value}"], {}).settings


def test_what_is_no_setting() -> None:
    """The path of subnet.env, and klog's verbosity as a level."""
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
def test_a_file_says_what_flanneld_has_no_flag_for(by: str, tmp_path: Path) -> None:
    """Its sections come beside the flags' settings, and without `probe` nobody is pinged."""
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
    """The others keep what they have with flanneld's flags; what the cluster defines stays refused."""
    path = tmp_path / "own.yaml"
    flag = f"--vxland-config={path}"
    for text, mtu, told in (("{mtu: 1400}", 1400, "flannel"), ("{subnet_env_mtu: smallest}", None, "smallest")):
        path.write_text(f"overlay: {text}\n")
        overlay = parse([flag], {}).settings.overlay
        assert (overlay.mtu, overlay.subnet_env_mtu) == (mtu, told)
    path.write_text("overlay: {vni: 5}\n")
    assert refused(flag).startswith("overlay.vni: 5: leave it out with registry.kind etcd")


def test_what_such_a_file_may_not_say(tmp_path: Path) -> None:
    """Nothing that flags say, nothing wrong; and it has to be there."""
    path = tmp_path / "own.yaml"
    flag = f"--vxland-config={path}"
    why = "'No such file or directory': name a configuration file that can be read"
    assert refused(flag) == f"--vxland-config: {why}"
    assert refused(FLANNELD_VXLAND_CONFIG=f"{tmp_path}/./own.yaml") == f"FLANNELD_VXLAND_CONFIG: {why}"
    path.write_text("underlay: {ttl: 5}\nsecurity: {}\nregistry: {kind: static}\n")
    assert refused(flag).splitlines() == [
        f"{section}: {str(path)!r}: leave it out: this file may have security, probe, datapath, control, "
        "overlay, and flags say the rest"
        for section in ("underlay", "registry")
    ]
    path.write_text("security: {input_filter: nftables, source_check: off}\nprobe: {interval: 5}\n")
    assert [line.partition(":")[0] for line in refused(flag, "--iptables-resync=0").splitlines()] == [
        "--iptables-resync",
        "probe.interval",
        "security.input_filter",
    ]


def test_interfaces_keep_their_order() -> None:
    """--iface and --iface-regex may be repeated, in any mixture; an empty one is none."""
    command = parse(
        ["-iface", "eth1", "--iface-regex=^b", "--iface=eth0", "--iface-regex", "a$", "-iface=10.0.0.1"], {}
    )
    assert command.settings.underlay.interface == ("eth1", "eth0", "10.0.0.1")
    assert command.settings.underlay.interface_regex == ("^b", "a$")


@pytest.mark.parametrize(
    ("argv", "masquerade", "prefix"),
    [
        (["-ip-masq"], True, "/coreos.com/network"),
        (["--ip-masq=true", "--ip-masq=false"], False, "/coreos.com/network"),
        (["--ip-masq=T"], True, "/coreos.com/network"),
        (["--ip-masq=0"], False, "/coreos.com/network"),
        (["--etcd-prefix", "/a", "-ip-masq"], True, "/a"),
        (["-etcd-prefix=/a", "-etcd-prefix", "/b"], False, "/b"),
        (["--etcd-prefix=a=b"], False, "a=b"),
        (["--etcd-prefix="], False, "/coreos.com/network"),
        (["--etcd-prefix", "--ip-masq"], False, "--ip-masq"),  # a value may look like a flag
        (["--etcd-prefix", "--", "--ip-masq"], True, "--"),
    ],
)
def test_gos_syntax(argv: list[str], masquerade: bool, prefix: str) -> None:
    """One dash or two, `=` or a blank; a switch takes no next argument; the last of several counts."""
    settings = parse(argv, {}).settings
    assert (settings.firewall.masquerade, settings.etcd.prefix) == (masquerade, prefix)


@pytest.mark.parametrize(
    ("argv", "masquerade", "first"),
    [
        (["-ip-masq", "false", "--kube-subnet-mgr"], True, "false"),
        (["run", "--ip-masq"], False, "run"),
        (["-", "--ip-masq"], False, "-"),
        (["", "--ip-masq"], False, ""),
        (["--", "--ip-masq"], False, "--ip-masq"),
        (["--ip-masq", "--"], True, None),
    ],
)
def test_flags_end_at_the_first_argument_that_is_none(argv: list[str], masquerade: bool, first: str | None) -> None:
    """As in Go the rest is not read; unlike flanneld, the log says so."""
    command = parse(argv, {})
    assert command.settings.firewall.masquerade is masquerade
    assert command.settings.registry.kind == "etcd"
    text = f"nothing is read from {first!r} on: flags end there; a switch is turned off with --FLAG=false"
    assert command.notes == (() if first is None else (text,))


@pytest.mark.parametrize(
    ("text", "number"),
    [("60", 60), ("+7", 7), ("0x3c", 60), ("0b11", 3), ("0o17", 15), ("017", 15), ("1_0", 10), ("0x_3_c", 60)],
)
def test_gos_numbers(text: str, number: int) -> None:
    """strconv.ParseInt with base 0."""
    assert parse([f"--subnet-lease-renew-margin={text}"], {}).settings.etcd.renew_margin_min == number


TUNNELS = "with registry.kind kube each family has a tunnel of its own"
URL = "write http:// or https://, a host and a port, such as https://192.168.111.128:2379"
HELP = "'vxland flanneld --help' lists those of flanneld"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--ifaces=eth0"], f"unknown flag --ifaces; did you mean --iface? {HELP}"),
        (["-kube-subnet-manager"], f"unknown flag --kube-subnet-manager; did you mean --kube-subnet-mgr? {HELP}"),
        (["--logtostderr"], f"unknown flag --logtostderr; {HELP}"),
        (["--Iface=eth0"], f"unknown flag --Iface; did you mean --iface? {HELP}"),
        (["--ip-masq", "--remote=x"], f"unknown flag --remote; {HELP}"),
        (["-\x1f"], rf"unknown flag --\x1f; {HELP}"),
        (["---iface=x"], "'---iface=x' is no flag; write --NAME=VALUE, or --NAME"),
        (["--=x"], "'--=x' is no flag; write --NAME=VALUE, or --NAME"),
        (["--iface"], "--iface needs a value; write --iface=VALUE"),
        (["--ip-masq=yes"], "--ip-masq: 'yes': write true or false"),
        (["--ip-masq="], "--ip-masq: '': write true or false"),
        (["--healthz-port=http"], "--healthz-port: 'http': write a whole number"),
        (["--healthz-port="], "--healthz-port: '': write a whole number"),
        (["--iptables-resync=5s"], "--iptables-resync: '5s': write a whole number"),
        (["--iptables-resync=1__0"], "--iptables-resync: '1__0': write a whole number"),
        (["--healthz-port=65536"], "--healthz-port: 65536: write a port, or 0 for none"),
        (["--healthz-port=-1"], "--healthz-port: -1: write a port, or 0 for none"),
        (["--subnet-file="], "--subnet-file: '': name a file, such as /run/flannel/subnet.env"),
        (["--subnet-lease-renew-margin=0"], "--subnet-lease-renew-margin: 0: use 1 or more"),
        (["--subnet-lease-renew-margin=1440"], "--subnet-lease-renew-margin: 1440: use 1439 or less"),
        (["--iptables-resync=0"], "--iptables-resync: 0: use 1 or more"),
        (
            ["--iface=eth0", "--iface=eth 1"],
            "--iface: 'eth 1': use a name without blanks, / : and %, such as flannel.1",
        ),
        (["--iface-can-reach=gw"], "--iface-can-reach: 'gw': write an IPv4 or IPv6 address, such as 192.168.111.129"),
        (
            ["--public-ip=fd00::1", KUBE],
            f"--public-ip: 'fd00::1': write it as --public-ipv6: {TUNNELS}",
        ),
        (
            ["--etcd-username=u"],
            "--etcd-password: None: give it too, or leave --etcd-username out: they go together",
        ),
        (
            ["--etcd-endpoints=https://a:1", "--etcd-keyfile=/k"],
            "--etcd-certfile: None: give it too, or leave --etcd-keyfile out: they go together",
        ),
        (
            ["--etcd-endpoints=https://a:1,http://b:2", "--etcd-keyfile=/k", "--etcd-certfile=/c"],
            "--etcd-endpoints: 'http://b:2': write https://, or name no certificates",
        ),
        (
            [KUBE, "--kube-api-url=api:6443"],
            f"--kube-api-url: 'api:6443': {URL}",
        ),
    ],
)
def test_what_is_refused(argv: list[str], says: str) -> None:
    """One line that names the flag, its value and what to write instead."""
    assert refused(*argv) == says


def test_a_healthz_name_is_no_address() -> None:
    """Names are looked up by flanneld; we listen on addresses."""
    assert refused("--healthz-ip=localhost", "--healthz-port=1").startswith(
        "--healthz-ip: 'localhost:1': write ADDRESS"
    )


def test_a_variable_is_named_where_it_is_at_fault() -> None:
    """The environment is not the command line."""
    assert refused(FLANNELD_IP_MASQ="maybe") == "FLANNELD_IP_MASQ: 'maybe': write true or false"
    assert refused(FLANNELD_IPTABLES_RESYNC="0") == "FLANNELD_IPTABLES_RESYNC: 0: use 1 or more"


def test_all_values_at_fault_are_told_at_once() -> None:
    """One line each."""
    lines = refused("--iface=a b", "--iptables-resync=0", "--public-ip=x").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["--iface", "--public-ip", "--iptables-resync"]


@pytest.mark.parametrize(
    ("argv", "environ", "notes"),
    [
        (["--vmodule=x=1"], {}, ["--vmodule has no effect: vxland has one level for all modules."]),
        (["--log_backtrace_at=a:1"], {}, ["--log_backtrace_at has no effect: it refers to flanneld's source."]),
        (["--kube-api-url=https://a"], {}, ["--kube-api-url has no effect without --kube-subnet-mgr"]),
        ([KUBE], {"FLANNELD_ETCD_PREFIX": "/a"}, ["FLANNELD_ETCD_PREFIX has no effect with --kube-subnet-mgr"]),
        ([], {"FLANNELD_IFCE": "eth0", "IFACE": "x"}, ["FLANNELD_IFCE has no effect: flanneld has no such flag"]),
        (
            ["--etcd-endpoints=https://a:1", "--etcd-cafile=/ca"],
            {},
            ["--etcd-cafile is obeyed, though flanneld ignores it without a client certificate"],
        ),
        (["--etcd-cafile=/ca"], {}, ["--etcd-cafile has no effect: every endpoint of etcd is http"]),
    ],
)
def test_what_has_no_effect_is_told(argv: list[str], environ: dict[str, str], notes: list[str]) -> None:
    """The log has a line for each; flanneld is silent."""
    assert list(parse(argv, environ).notes) == notes


def test_etcd_settings_do_not_matter_with_kubernetes() -> None:
    """Not even where they could not be used; the same the other way round."""
    assert parse([KUBE, "--etcd-endpoints=x y", "--etcd-username=u"], {}).settings.registry.kind == "kube"
    assert parse(["--kube-api-url=nowhere"], {}).settings.registry.kind == "etcd"


def flanneld(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """`vxland flanneld` as far as it goes without a node: exit code, output, errors."""
    result = CliRunner().invoke(main, ["flanneld", *argv], env=env)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("flag", ["-h", "--help", "-help", "--h"])
def test_help(flag: str) -> None:
    """Every flag with default and meaning, whatever stands behind; in Go's order of reading."""
    code, out, _ = flanneld("--ip-masq", flag, "--unknown")
    assert (code, out) == (0, help_text() + "\n")
    for known in FLAGS:
        assert f"--{known.name}" in out
        assert known.meaning in out
        assert not known.default or f"(default {known.default})" in out
    assert all(name in out for name in ENVIRONMENT)


def test_version() -> None:
    """To standard error, as flanneld's; the variable of that name says nothing, as there."""
    assert flanneld("--version") == (0, "", f"{__version__}\n")
    assert flanneld("-version=true", "--iptables-resync=0") == (0, "", f"{__version__}\n")
    assert parse([], {"FLANNELD_VERSION": "true"}).version is False


def test_refusals_on_the_command_line() -> None:
    """Exit code 2, and a line for each problem; arguments reach the parser as they are."""
    assert flanneld("--foo") == (2, "", f"vxland flanneld: unknown flag --foo; {HELP}\n")
    code, out, err = flanneld("-iface=a b", "--iptables-resync", "0")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "vxland flanneld: --iface: 'a b': use a name without blanks, / : and %, such as flannel.1",
        "vxland flanneld: --iptables-resync: 0: use 1 or more",
    ]
    code, _, err = flanneld("--", "--foo", env={"FLANNELD_IP_MASQ": "maybe"})
    assert (code, err) == (2, "vxland flanneld: FLANNELD_IP_MASQ: 'maybe': write true or false\n")


def test_the_page_has_every_flag() -> None:
    """docs/flanneld.md says of each flag and variable what the code says."""
    text = (ROOT / "docs" / "flanneld.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--?[^`]+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", text, re.MULTILINE)
    assert rows == [(f"--{flag.name}", flag.default, flag.meaning) for flag in FLAGS]
    variables = re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", text, re.MULTILINE)
    assert variables == list(ENVIRONMENT.items())


WORDS = st.sampled_from([f"{dash}{flag.name}{value}" for flag in FLAGS for dash in ("-", "--") for value in ("", "=1")])


TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=8)  # neither words nor variables can have a NUL


@given(st.lists(WORDS | TEXTS | st.sampled_from(["--", "true", "-h", "-\x1f"]), max_size=8), st.data())
def test_any_words_are_read_or_refused(argv: list[str], data: st.DataObject) -> None:
    """Nothing but FlagError and InvalidConfigError, each of printable lines, comes out of a command line."""
    names = st.sampled_from([flag.variable for flag in FLAGS])
    environ = data.draw(st.dictionaries(names, TEXTS, max_size=3))
    problem = ""
    try:
        parse(argv, environ)
    except (FlagError, InvalidConfigError) as exc:
        problem = str(exc)
    assert all(line.isprintable() for line in problem.split("\n"))
