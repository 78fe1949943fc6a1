"""Packet sockets of this network namespace that see every frame of a device, as tcpdump opens them; read from /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SOCKETS: Final = Path("/proc/self/net/packet")
_MAX_FILE: Final = 1 << 16
_PROTO, _IFACE = 3, 4  # columns of packet_seq_show(), net/packet/af_packet.c
_ALL_PROTOCOLS: Final = "0003"  # ETH_P_ALL: only these get outgoing frames
_ALL_DEVICES: Final = "0"


def is_watched(ifindex: int, path: Path = _SOCKETS) -> bool:
    """Return whether a packet socket sees every frame of this device; False if the kernel does not say."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_FILE).decode("ascii", "replace").splitlines()[1:]
    except OSError:
        return False
    wanted = {_ALL_DEVICES, str(ifindex)}
    sockets = (line.split() for line in lines)
    return any(len(one) > _IFACE and one[_PROTO] == _ALL_PROTOCOLS and one[_IFACE] in wanted for one in sockets)
