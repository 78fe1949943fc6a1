"""The devices that NetworkManager's configuration excludes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vxland.kernel.network_manager import Device, managed

DEVICES = (Device("flannel.1", "tun"), Device("cni0", "bridge"))
BOTH = ("flannel.1", "cni0")


def left(root: Path, files: dict[str, str]) -> tuple[str, ...]:
    """Return the devices that it manages with these files, by their places below the root."""
    (root / "run/NetworkManager").mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return managed(DEVICES, root)


MAIN, ETC, LIB = (
    "etc/NetworkManager/NetworkManager.conf",
    "etc/NetworkManager/conf.d/x.conf",
    "usr/lib/NetworkManager/conf.d/x.conf",
)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, BOTH),
        ({MAIN: "[main]\nplugins=keyfile\n"}, BOTH),
        ({ETC: "[keyfile]\nunmanaged-devices=interface-name:flannel*;interface-name:cni0\n"}, ()),
        ({ETC: "[keyfile]\nunmanaged-devices=interface-name:=flannel*,cni0\n"}, ("flannel.1",)),
        ({ETC: "[keyfile]\nunmanaged-devices=type:tun\n"}, ("cni0",)),
        ({ETC: "[keyfile]\nunmanaged-devices=*,except:interface-name:cni0\n"}, ("cni0",)),
        ({ETC: "[keyfile]\nunmanaged-devices=except:interface-name:eth0\n"}, ()),
        ({LIB: "[keyfile]\nunmanaged-devices=*\n", ETC: "[main]\n"}, BOTH),  # shadowed by its name
        ({MAIN: "[keyfile]\nunmanaged-devices=cni0\n", ETC: "[keyfile]\nunmanaged-devices=none\n"}, BOTH),
        ({MAIN: "[keyfile]\nunmanaged-devices=cni0\n", ETC: "[keyfile]\nunmanaged-devices+=driver:tun\n"}, ()),
        ({ETC: "[device-overlay]\nmatch-device=interface-name:flannel*\nmanaged=0\n"}, ("cni0",)),
        ({ETC: "[device]\nmanaged=false\n"}, ()),
        ({ETC: "no section\n= \n", MAIN: "[keyfile]\nunmanaged-devices=cni0\n"}, ("flannel.1",)),
    ],
)
def test_its_configuration_excludes_devices(tmp_path: Path, files: dict[str, str], expected: tuple[str, ...]) -> None:
    """Lists of [keyfile] and of [device] sections, in the order in which files override each other."""
    assert left(tmp_path, files) == expected


def test_a_pipe(tmp_path: Path) -> None:
    """It is no file to read: opening it held up `check --here` without end."""
    (tmp_path / "etc/NetworkManager/conf.d").mkdir(parents=True)
    os.mkfifo(tmp_path / ETC)
    assert left(tmp_path, {MAIN: "[keyfile]\nunmanaged-devices=*\n"}) == ()


def test_without_network_manager(tmp_path: Path) -> None:
    """Nothing is managed where it does not run."""
    assert managed(DEVICES, tmp_path) == ()
