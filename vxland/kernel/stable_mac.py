"""A MAC that belongs to this machine: the same after a restart and a reboot, without a file to store it."""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path

from vxland.model.lease import Address, Mac

MACHINE_ID = Path("/etc/machine-id")


def machine_mac(address: Address, device: str, machine_id: Path = MACHINE_ID) -> Mac:
    """Return a MAC made from the machine's id, the VTEP address and the device; a random one without an id.

    The address is part of it because cloned machines often share their id, machine-id(5).
    """
    try:
        seed = machine_id.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        seed = ""
    if not seed:  # a container: the TAP itself keeps the MAC for as long as it exists
        return Mac.local_from(secrets.token_bytes(6))
    return Mac.local_from(sha256(f"vxland {seed} {address} {device}".encode()).digest())
