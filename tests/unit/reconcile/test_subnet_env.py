"""subnet.env, to the byte as flanneld writes it (WriteSubnetFile of flannel's pkg/subnet/subnet.go)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from vxland.reconcile.subnet_env import read, read_networks, render, write

V4, V4_SUBNET = ip_network("10.244.0.0/16"), ip_network("10.244.1.0/24")
V6, V6_SUBNET = ip_network("fd00:10:244::/56"), ip_network("fd00:10:244:1::/64")


@pytest.fixture
def stern_umask() -> Iterator[None]:
    """Set a umask that excludes every other user."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """Return the permission bits."""
    return path.stat().st_mode & 0o777


def test_ipv4() -> None:
    """The four lines of a default cluster; the subnet is written as its gateway, base + 1."""
    assert render([V4], [V4_SUBNET], 1450, ip_masq=True) == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )


def test_dual_stack_puts_ipv4_first() -> None:
    """The order is flanneld's, whatever the caller's."""
    assert render([V6, V4], [V6_SUBNET, V4_SUBNET], 1430, ip_masq=False) == (
        "FLANNEL_NETWORK=10.244.0.0/16\n"
        "FLANNEL_SUBNET=10.244.1.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd00:10:244::/56\n"
        "FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n"
        "FLANNEL_MTU=1430\n"
        "FLANNEL_IPMASQ=false\n"
    )


def test_ipv6_only() -> None:
    """There are no IPv4 lines, as with EnableIPv4 false."""
    assert render([V6], [V6_SUBNET], 1430, ip_masq=False).splitlines()[:2] == [
        "FLANNEL_IPV6_NETWORK=fd00:10:244::/56",
        "FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64",
    ]


@pytest.mark.usefixtures("stern_umask")
def test_everyone_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    """0644 in new directories of 0755: the CNI plugin may run as any user."""
    path = tmp_path / "run" / "flannel" / "subnet.env"
    write(path, "FLANNEL_MTU=1450\n")
    assert path.read_bytes() == b"FLANNEL_MTU=1450\n"
    assert [mode(path), mode(path.parent), mode(path.parent.parent)] == [0o644, 0o755, 0o755]


def test_directories_that_exist_keep_their_mode(tmp_path: Path) -> None:
    """Only directories that write() creates get a mode."""
    tmp_path.chmod(0o711)
    write(tmp_path / "subnet.env", "")
    assert mode(tmp_path) == 0o711


def test_it_is_replaced_whole(tmp_path: Path) -> None:
    """A reader of the old file still reads all of it: the new one is another file of the same name."""
    path = tmp_path / "subnet.env"
    write(path, "old\n")
    with path.open() as reader:
        write(path, "new and longer\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new and longer\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["subnet.env"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    """A directory has the name: the error is raised, and no temporary file stays."""
    path = tmp_path / "subnet.env"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write(path, "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["subnet.env"]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """The subnets of both families are read as networks."""
    path = tmp_path / "subnet.env"
    write(path, render([V4, V6], [V4_SUBNET, V6_SUBNET], 1450, ip_masq=True))
    assert read(path) == {4: V4_SUBNET, 6: V6_SUBNET}
    assert read_networks(path) == {4: V4, 6: V6}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00FLANNEL_SUBNET",
        b"FLANNEL_SUBNET=",
        b"FLANNEL_SUBNET=10.244.1.1/33",
        b"FLANNEL_SUBNET=fd00::1/64",
        b"FLANNEL_IPV6_SUBNET=10.244.1.1/24",
        b'FLANNEL_SUBNET="10.244.1.1/24"',
        b"export FLANNEL_SUBNET=10.244.1.1/24",
    ],
)
def test_other_files_name_no_subnet(tmp_path: Path, text: bytes) -> None:
    """The earlier subnet is only a preference; a file that cannot be read has none."""
    path = tmp_path / "subnet.env"
    path.write_bytes(text)
    assert read(path) == {}


def test_no_file_names_no_subnet(tmp_path: Path) -> None:
    """At the first start there is no file, and a directory may have its name."""
    assert read(tmp_path / "subnet.env") == {}
    assert read(tmp_path) == {}
