"""Flags that are refused, and flags without effect."""

from __future__ import annotations

import pytest

from tests.unit.cli.flanneld.command_line import HELP, KUBE, refused
from vxland.cli.flanneld import parse

TUNNELS = "with registry.kind kube each family has a tunnel of its own"


URL = "write http:// or https://, a host and a port, such as https://192.168.111.128:2379"


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
def test_refused_flags(argv: list[str], says: str) -> None:
    """One line that names the flag, its value and what to write instead."""
    assert refused(*argv) == says


def test_a_healthz_name_is_no_address() -> None:
    """A name is refused: flanneld resolves names, vxland listens on addresses only."""
    assert refused("--healthz-ip=localhost", "--healthz-port=1").startswith(
        "--healthz-ip: 'localhost:1': write ADDRESS"
    )


def test_a_variable_at_fault_is_named() -> None:
    """A value of the environment is reported under its variable."""
    assert refused(FLANNELD_IP_MASQ="maybe") == "FLANNELD_IP_MASQ: 'maybe': write true or false"
    assert refused(FLANNELD_IPTABLES_RESYNC="0") == "FLANNELD_IPTABLES_RESYNC: 0: use 1 or more"


def test_all_problems_at_once() -> None:
    """Each value at fault has one line."""
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
def test_flags_without_effect(argv: list[str], environ: dict[str, str], notes: list[str]) -> None:
    """The log has a line for each; flanneld ignores them silently."""
    assert list(parse(argv, environ).notes) == notes
