"""Packet sockets in /proc/net/packet: those that see every frame of a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from vxland.kernel.packet_sockets import is_watched

HEAD = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
LINE = "00000000d2f9f5b3 3      3    {proto}   {iface}     1 0      0      4242\n"


@pytest.mark.parametrize(
    ("proto", "iface", "watched"),
    [
        ("0003", "7", True),
        ("0003", "0", True),  # tcpdump -i any
        ("0003", "8", False),
        ("0003", "77", False),
        ("88cc", "7", False),  # lldpd gets no outgoing frames
        ("0000", "7", False),  # it only sends
    ],
)
def test_a_socket(tmp_path: Path, proto: str, iface: str, watched: bool) -> None:
    """Of this device or of all, and for all protocols."""
    path = tmp_path / "packet"
    path.write_text(HEAD + LINE.format(proto="0806", iface=7) + LINE.format(proto=proto, iface=iface))
    assert is_watched(7, path) == watched


@pytest.mark.parametrize("text", ["", HEAD, HEAD + "x\n\n", "\xff\n" * 99])
def test_no_socket(tmp_path: Path, text: str) -> None:
    """An empty list, or none that can be understood."""
    path = tmp_path / "packet"
    path.write_text(text)
    assert not is_watched(7, path)


def test_a_kernel_without_the_list(tmp_path: Path) -> None:
    """Without CONFIG_PACKET nobody watches."""
    assert not is_watched(7, tmp_path / "packet")
