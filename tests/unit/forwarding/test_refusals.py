"""The errno that the log of drops shows: that of a pump with refusals in this period."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from vxland.datapath.verdict import Counters, Drop
from vxland.forwarding.refusals import Refusals


@dataclass
class RefusingPump:
    """Counters and last errnos of a pump, set by a test."""

    last_send_errno: int = 0
    last_write_errno: int = 0
    encap_counters: Counters = field(default_factory=Counters)
    decap_counters: Counters = field(default_factory=Counters)

    def refuse_send(self, code: int) -> None:
        """Count a frame whose datagram the kernel refused."""
        self.last_send_errno = code
        self.encap_counters.drops[Drop.SEND_FAILED] += 1

    def refuse_write(self, code: int) -> None:
        """Count a frame that the TAP refused."""
        self.last_write_errno = code
        self.decap_counters.drops[Drop.TAP_WRITE_FAILED] += 1


def test_the_errno_of_the_pump_that_was_refused() -> None:
    """The log named "Network is unreachable", an error of an hour ago, for sends that another worker had refused."""
    first, second = RefusingPump(), RefusingPump()
    refusals = Refusals([first, second])
    assert refusals.new_errnos() == {}
    first.refuse_send(errno.ENETUNREACH)
    assert refusals.new_errnos() == {"encap": errno.ENETUNREACH}
    second.refuse_send(errno.EPERM)
    assert refusals.new_errnos() == {"encap": errno.EPERM}
    assert refusals.new_errnos() == {}


def test_each_direction_has_its_own() -> None:
    """A refused send says nothing of the TAP, and a drop for another reason is no refusal."""
    pump = RefusingPump()
    refusals = Refusals([pump])
    pump.refuse_write(errno.EIO)
    assert refusals.new_errnos() == {"decap": errno.EIO}
    pump.refuse_send(errno.ENOBUFS)
    pump.decap_counters.drops[Drop.UNKNOWN_VTEP] += 1
    assert refusals.new_errnos() == {"encap": errno.ENOBUFS}
