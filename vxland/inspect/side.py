"""The side that takes a packet, for a trace: a program of the fast path, or the daemon and its reason.

The rules are those of fastpath/programs.c, for a packet of which trace.py has already found what the daemon would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vxland.model.lease import Vtep

Side: TypeAlias = Literal["", "program", "daemon"]
"""Empty: the packet meets neither."""

_NO_ENTRY = "its interface has no Ethernet header, or the maps are full"
_HELD = "for a moment after each, all of its packets"


@dataclass(frozen=True, slots=True)
class TracedFastPath:
    """The fast path of one device, as a trace needs it."""

    off: str
    """Reason why there is none; empty while there is one."""
    superframes: bool = False
    """Whether programs encapsulate superframes too."""
    aggregates: bool = False
    """Whether programs decapsulate aggregates too."""
    diverted: bool = False
    """Whether a capture has all frames go to the daemon."""
    sends_to: Callable[[Vtep], bool] = lambda _: False
    """Returns whether programs send to a VTEP."""
    receives_from: Callable[[Vtep], bool] = lambda _: False
    """Returns whether programs receive from a VTEP."""

    def encap(self, vtep: Vtep, packet_len: int, most: int) -> tuple[Side, str]:
        """Return the side of a packet to a VTEP, whose path carries packets of `most` bytes; and its reason."""
        if self._busy:
            return "daemon", self._busy
        if not self.sends_to(vtep):
            return "daemon", f"no program sends to this VTEP: two VTEPs have its MAC, {_NO_ENTRY}"
        if packet_len > most:
            return "daemon", "it is bigger than the path carries"
        if self.superframes:
            return "program", "superframes of the flow too"
        return "program", f"superframes of the flow go to the daemon, as the device below segments no tunnels; {_HELD}"

    def decap(self, vtep: Vtep | None, packet_len: int, mtu: int) -> tuple[Side, str]:
        """Return the side of a datagram with a packet of a VTEP, None if its source is none; and the reason."""
        if self._busy:
            return "daemon", self._busy
        if vtep is None:
            return "daemon", "programs carry only what known VTEPs send"
        if not self.receives_from(vtep):
            return "daemon", f"no program receives from this VTEP: {_NO_ENTRY}"
        if packet_len > mtu:
            return "daemon", "it is bigger than the MTU of the device"
        if self.aggregates:
            return "program", "aggregates of the flow too"
        return "program", f"aggregates of the flow go to the daemon; {_HELD}"

    @property
    def _busy(self) -> str:
        return self.off or ("a capture runs, which shows all frames" if self.diverted else "")
