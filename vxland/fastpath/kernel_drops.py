"""Packets between two addresses that the kernel itself drops, with its reason (kernel_drops.c)."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vxland.fastpath.libbpf import BpfError, BpfObject, OpenedObject, enumeration, library
from vxland.model.lease import Address

OBJECT: Final = Path(__file__).with_name("kernel_drops.o")
_WANTED: Final = struct.Struct("=B16s16s")  # struct wanted
_DROPPED: Final = struct.Struct("=QIII16s128s4x")  # struct dropped
_PREFIX: Final = "SKB_DROP_REASON_"


@dataclass(frozen=True, slots=True)
class KernelDrop:
    """One packet that the kernel dropped."""

    time_ns: int
    """Nanoseconds since 1970."""
    reason: str
    """A name of the kernel's enum skb_drop_reason, without its prefix; or the number of another one."""
    device: str
    """The device that the packet was at; empty if it was at none."""
    is_here: bool
    """True if that device is in this process's network namespace, and not in a pod's."""
    is_datagram: bool
    """True if the packet was on the underlay, in a VXLAN datagram."""
    packet: bytes
    """Begin of the IP packet between the two addresses."""


class KernelDrops:
    """The drops of packets between two addresses, both ways, from now on. BpfError. Close it."""

    def __init__(self, one: Address, other: Address) -> None:
        lib = library()
        if lib is None:
            raise BpfError("libbpf is not installed", 0)
        self._reasons = enumeration(lib, "skb_drop_reason")
        self._object = BpfObject(OpenedObject(lib, OBJECT.read_bytes()))
        self._namespace = Path("/proc/self/ns/net").stat().st_ino
        try:
            with self._object.map(".data.wanted").memory() as memory:
                memory[: _WANTED.size] = _WANTED.pack(one.version, one.packed, other.packed)
            self._queue = self._object.map("queue")
            self._link = self._object.attach_tracepoint("vxland_dropped")
        except BaseException:
            self._object.close()
            raise

    def close(self) -> None:
        """Detach the program."""
        self._object.detach_tracepoint(self._link)
        self._object.close()

    def read(self) -> Iterator[KernelDrop]:
        """Yield the drops since the last call. BpfError."""
        boot_ns = time.time_ns() - time.monotonic_ns()
        while (value := self._queue.pop()) is not None:
            at_ns, reason, namespace, inner_at, device, packet = _DROPPED.unpack(value)
            yield KernelDrop(
                boot_ns + at_ns,
                _name(self._reasons, reason),
                device.partition(b"\0")[0].decode("utf-8", "replace"),
                namespace == self._namespace,
                inner_at > 0,
                packet[inner_at:],
            )


def _name(reasons: Mapping[int, str], reason: int) -> str:
    return reasons.get(reason, str(reason)).removeprefix(_PREFIX)
