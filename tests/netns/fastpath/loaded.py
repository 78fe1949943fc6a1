"""The programs of node A in a namespace of their own, run on one packet at a time (BPF_PROG_TEST_RUN).

The kernel gives the packet to a program as if it had just arrived at loopback, and reports the verdict instead of
following it. Nothing is ever sent.
"""

from __future__ import annotations

import socket
import time
from array import array
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from struct import pack_into, unpack_from
from typing import Any, Final, NamedTuple

from tests.frames import ETH_LEN, LEASES_OF_A, OUTER_A, OVERLAY_MTU, OWN_MAC, PORT, VNI
from vxland.config import Settings
from vxland.datapath.limits import Limits
from vxland.datapath.owners import Owners
from vxland.datapath.table import Table, table_of
from vxland.fastpath.choice import ON_THE_WAY_NS
from vxland.fastpath.layout import ATTENDED_AT, CARRY_AFTER_AT, DRAINED_AT, TIME_LEN, ProgramSettings, pack_number
from vxland.fastpath.programs import NOTHING, Carried, Programs
from vxland.model.kernel_state import OuterHeader, Underlay
from vxland.model.lease import Address, Lease, Mac, Vtep
from vxland.model.source_check import SourceCheck
from vxland.model.steps import at_once
from vxland.node.tunnel import Tunnel, program_settings

LEFT, CARRIED = -1, 7
"""TC_ACT_UNSPEC, and TC_ACT_REDIRECT."""
TAP, POD, UNDERLAY, PEER = "tap", "pod", "e0", "peer"
TAP_MTU = 9000
PEER_MAC = 0x02_00_00_00_00_0B
PUBLIC = "203.0.113.7"
"""An address that A does not have itself: its datagrams reach it through NAT."""
PORTS = list(range(50_000, 50_016))
FLOW_WORDS = 3
"""Numbers in struct flow; the first one is the time of its last packet that was left to the daemon."""
DRAINED = (DRAINED_AT, DRAINED_AT + TIME_LEN)
CONTEXT_LEN, MARK_AT, GSO_SEGS_AT, GSO_SIZE_AT = 192, 8, 164, 176  # of struct __sk_buff, linux/bpf.h

_FILE: Final[dict[str, Any]] = {
    "overlay": {"network": "10.244.0.0/16", "subnet": "10.244.0.0/24", "vni": VNI, "port": PORT},
    "underlay": {"address": OUTER_A},
    "registry": {"kind": "static", "peers": []},
}


@dataclass(frozen=True)
class Outcome:
    """The verdict of a program, the packet after it, and the packet's mark."""

    verdict: int
    packet: bytes
    mark: int

    @property
    def carried(self) -> bool:
        """True if the program carried the packet, False if it left the packet to the daemon."""
        assert self.verdict in {CARRIED, LEFT}
        return self.verdict == CARRIED


async def _never() -> tuple[int, int]:
    """Report that the daemon's queues are not empty."""
    return 0, 0


class Known(NamedTuple):
    """The leases in the form that the daemon has."""

    table: Table
    limits: Limits


class Loaded:
    """Node A's programs. All calls are made in the namespace, whose devices TAP and UNDERLAY exist."""

    def __init__(self) -> None:
        self.tap, self.underlay = socket.if_nametoindex(TAP), socket.if_nametoindex(UNDERLAY)
        self._followed: tuple[Collection[Lease], Mapping[Address, int], int, Container[Address]] | None = None
        self._settings: tuple[OuterHeader, SourceCheck, tuple[int, ...], dict[str, int]] | None = None
        self.programs = Programs(TAP)
        self.programs.set(self._program_settings(OuterHeader(), SourceCheck.VTEP, PORTS))
        self._flows = self.programs._object.map(".bss").memory()
        self.programs.attach(self.tap, ())
        self._owners = Owners()
        self.known = self.follow(LEASES_OF_A)

    def close(self) -> None:
        """Unload the programs."""
        self._flows.close()
        self.programs.close()

    def set(
        self,
        outer: OuterHeader = OuterHeader(),  # noqa: B008  (frozen)
        check: SourceCheck = SourceCheck.VTEP,
        ports: Iterable[int] = PORTS,
        **changes: int,
    ) -> None:
        """Carry by these settings, with superframes: as the daemon derives them from its own, with `changes`."""
        wanted = (outer, check, tuple(ports), {"superframes": True, "mtu": TAP_MTU, **changes})
        if wanted != self._settings:
            self._settings = wanted
            self.programs.set(replace(self._program_settings(outer, check, ports), **wanted[3]))  # type: ignore[arg-type]

    def _program_settings(self, outer: OuterHeader, check: SourceCheck, ports: Iterable[int]) -> ProgramSettings:
        """Return the settings as the daemon derives them from its own."""
        written = {
            "ttl": "inherit" if outer.ttl is None else outer.ttl,
            "dscp": "inherit" if outer.dscp is None else outer.dscp,
            "df": outer.df,
        }
        settings = Settings.model_validate({**_FILE, "underlay": {**_FILE["underlay"], **written}})
        assert settings.outer == outer
        tunnel = Tunnel(
            underlay=Underlay(UNDERLAY, self.underlay, ip_address(OUTER_A), 1500),
            mac=Mac(OWN_MAC),
            mtu=OVERLAY_MTU,
            narrow={},
            source_ports=list(ports),
            public=[ip_address(PUBLIC)],
            check_source=check,
        )
        return program_settings(settings, tunnel, superframes=False, short_of_cpu=False)

    def follow(
        self,
        leases: Collection[Lease],
        narrow: Mapping[Address, int] | None = None,
        mtu: int = OVERLAY_MTU,
        unreachable: Container[Address] = (),
    ) -> Known:
        """Carry by these leases, with the limits of the paths to their VTEPs; return what the daemon has of them."""
        wanted = (leases, narrow or {}, mtu, unreachable)
        if wanted != self._followed:
            self._followed = wanted
            self.known = Known(table_of(leases, PORT), Limits(narrow or {}))
            changed = self._owners.change(set(self._owners.leases.values()).difference(leases), leases)
            at_once(self.programs.follow(self._owners, changed))
            at_once(self.programs.set_limits(narrow or {}, mtu))
            addresses = {vtep.address for vtep in (*changed.gone, *self._owners.vteps)}
            here = {vtep.address for vtep in self._owners.vteps if vtep.address not in unreachable}
            at_once(self.programs.set_devices({each: self.underlay if each in here else None for each in addresses}))
        return self.known

    def forget(self, *, attended_ns: int = 0, carry_after_ns: int = 0) -> None:
        """Forget the flows that the daemon had, with a daemon that was last seen `attended_ns` ago.

        With `carry_after_ns`, all count as left to it that long from now; 0: none does.
        """
        self._flows[:] = bytes(len(self._flows))
        now = time.monotonic_ns()
        self._put_time(CARRY_AFTER_AT, now + carry_after_ns if carry_after_ns else 0)
        self._put_time(ATTENDED_AT, now - attended_ns)
        for at in DRAINED:
            self._put_time(at, 1)

    def drain(self, later_ns: int = 0) -> None:
        """Report that the daemon's queues are empty, at a time that lies `later_ns` from now."""
        now = time.monotonic_ns() + ON_THE_WAY_NS + later_ns
        self.programs.beat()
        self.programs.drained(now, now)

    def left_any(self) -> bool:
        """Return whether a packet of any flow was left to the daemon."""
        return any(array("Q", self._flows[:])[::FLOW_WORDS])

    def _put_time(self, at: int, when_ns: int) -> None:
        since = when_ns % (1 << 64)  # may be before the machine was started: the programs only subtract
        pack_into("=Q", self.programs._memory, at, since)

    def encap(self, frame: bytes, gso_size: int = 0, mark: int = 0) -> Outcome:
        """Run the program at the TAP on a frame from a pod; `gso_size` is that of a superframe."""
        return self._run("vxland_encap", frame, gso_size, mark)

    def decap(self, packet: bytes, gso_size: int = 0, mark: int = 0) -> Outcome:
        """Run the program at the underlay on a packet, with its Ethernet header; `gso_size` is that of an aggregate."""
        return self._run("vxland_decap", packet, gso_size, mark)

    def _run(self, program: str, packet: bytes, gso_size: int, mark: int) -> Outcome:
        context = bytearray(CONTEXT_LEN)
        pack_into("=I", context, MARK_AT, mark)
        if gso_size:
            pack_into("=I", context, GSO_SIZE_AT, gso_size)
            pack_into("=I", context, GSO_SEGS_AT, max(len(packet) // gso_size, 1))
        verdict, left, context_out = self.programs._object.run(program, packet, bytes(context))
        return Outcome(verdict, left, unpack_from("=I", context_out, MARK_AT)[0])

    def counts(self) -> tuple[Carried, dict[Vtep, Carried]]:
        """Return what was carried in all, and with each VTEP."""
        return self.programs.carried(), {vtep: each for vtep, each in self.programs.peers().items() if any(each)}

    def restart_counts(self) -> None:
        """Begin to count at zero."""
        programs = self.programs
        for slot in (0, *programs._entries.slots.values()):
            cpus = len(programs._traffic.per_cpu(slot, 1)) // 4
            programs._traffic.put(pack_number(slot), bytes(32) * cpus)
            programs._before[slot] = NOTHING


def can_run(packet: bytes) -> bool:
    """Return whether the kernel runs a program on these bytes: it refuses IP packets shorter than their header."""
    return len(packet) >= ETH_LEN + {b"\x08\x00": 20, b"\x86\xdd": 40}.get(packet[12:ETH_LEN], 0)
