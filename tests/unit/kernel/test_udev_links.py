"""The .link file that udev applies to a new TAP, and its policy for the MAC."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vxland.kernel.udev_links import mac_policy

SHIPPED = (
    "# comment\n[Match]\nOriginalName=*\n\n[Link]\nNamePolicy=keep kernel\nMACAddressPolicy=persistent\n"  # Debian's
)


def policy(tmp_path: Path, files: dict[str, str], device: str = "flannel.1") -> str | None:
    """Return the policy with these files, given by folder (etc, lib) and name, while udev runs."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    running = tmp_path / "control"
    running.touch()
    found = mac_policy(device, (tmp_path / "etc", tmp_path / "lib"), running)
    return None if found is None else found.policy


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"lib/99-default.link": SHIPPED}, "persistent"),
        ({"lib/99-default.link": SHIPPED.replace("[Match]\nOriginalName=*\n", "")}, "persistent"),
        ({"lib/99-default.link": SHIPPED.replace("persistent", "none")}, None),
        ({"lib/99-default.link": SHIPPED, "etc/99-default.link": ""}, None),  # masked
        ({"lib/99-default.link": SHIPPED, "etc/10-other.link": "# nothing\n"}, "persistent"),
        ({"lib/99-default.link": SHIPPED, "etc/99-default.link.d/x.conf": "[Link]\nMACAddressPolicy=random"}, "random"),
        (
            {
                "lib/99-default.link": SHIPPED,
                "etc/10-vxland.link": "[Match]\nOriginalName=flannel.1\n\n[Link]\nMACAddressPolicy=none\n",
            },
            None,
        ),
        (
            {
                "lib/99-default.link": SHIPPED,
                "etc/10-others.link": "[Match]\nOriginalName=!flannel*\n[Link]\nMACAddressPolicy=none\n",
            },
            "persistent",
        ),
        (
            {
                "lib/99-default.link": SHIPPED,
                "etc/10-card.link": "[Match]\nMACAddress=02:00:00:00:00:01\n[Link]\nMACAddressPolicy=none\n",
            },
            "persistent",
        ),
        (
            {
                "lib/99-default.link": SHIPPED,
                "etc/10-taps.link": "[Match]\nDriver=tun veth\nType=ether\n[Link]\nMACAddressPolicy=none\n",
            },
            None,
        ),
    ],
)
def test_the_first_file_that_matches_decides(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    """By name, a file of /etc before one of /lib, with drop-ins; keys of hardware match no TAP."""
    assert policy(tmp_path, files) == expected


def test_without_udev(tmp_path: Path) -> None:
    """A container has the files, and nothing that acts on them."""
    (tmp_path / "99-default.link").write_text(SHIPPED)
    assert mac_policy("flannel.1", (tmp_path,), tmp_path / "control") is None


def test_no_files(tmp_path: Path) -> None:
    """A link to /dev/null masks the file of its name; a pipe, for which nobody would write, held up the check."""
    for folder in ("etc", "lib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/99-default.link").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "etc/10-pipe.link")
    assert policy(tmp_path, {"lib/99-default.link": SHIPPED}) is None


def test_any_bytes(tmp_path: Path) -> None:
    """A file of any content is no error."""
    (tmp_path / "control").touch()
    (tmp_path / "10-x.link").write_bytes(b"[Match\n\xff=\x00\n=\n[]\n" * 100)
    (tmp_path / "20-x.link").mkdir()
    assert mac_policy("flannel.1", (tmp_path,), tmp_path / "control") is None
