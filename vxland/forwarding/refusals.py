"""Sends and TAP writes that the kernel refused, for the log of drops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vxland.datapath.verdict import Counters, Drop


class RefusedPump(Protocol):
    """The part of a pump that Refusals reads; an errno is 0 before any refusal."""

    @property
    def last_send_errno(self) -> int:
        """The kernel's last refusal to send."""
        ...

    @property
    def last_write_errno(self) -> int:
        """The kernel's last refusal of a frame by the TAP."""
        ...

    @property
    def encap_counters(self) -> Counters:
        """Counters of frames from the TAP."""
        ...

    @property
    def decap_counters(self) -> Counters:
        """Counters of datagrams from the underlay."""
        ...


class Refusals:
    """Compares the refusals of several pumps with those of the call before."""

    def __init__(self, pumps: Sequence[RefusedPump]) -> None:
        self._pumps = pumps
        self._counted: dict[tuple[str, int], int] = {}  # by direction and pump

    def new_errnos(self) -> dict[str, int]:
        """Return the errno of a refusal since the last call, by direction; a direction without one is left out.

        An errno stays with its pump for good, so that of a pump without new refusals belongs to an earlier fault.
        """
        errnos = {}
        for number, pump in enumerate(self._pumps):
            for direction, code, counters in (
                ("encap", pump.last_send_errno, pump.encap_counters),
                ("decap", pump.last_write_errno, pump.decap_counters),
            ):
                refused = sum(counters.drops[reason] for reason in (Drop.SEND_FAILED, Drop.TAP_WRITE_FAILED))
                if refused != self._counted.get((direction, number), 0):
                    self._counted[direction, number] = refused
                    errnos[direction] = code
        return errnos
