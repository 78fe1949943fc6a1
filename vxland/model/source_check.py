"""Levels of `security.source_check`, shared by the settings and the data path."""

from __future__ import annotations

from enum import IntEnum


class SourceCheck(IntEnum):
    """Checks of a datagram's sender; each level includes the ones before."""

    OFF = 0  # datagrams of every sender pass, as in flannel
    VTEP = 1  # the outer source is a leased VTEP's
    STRICT = 2  # and the inner source is an address of that VTEP's node

    @property
    def label(self) -> str:
        """The word in the configuration file and in `vxlandctl status`."""
        return self.name.lower()

    def __str__(self) -> str:
        """Return the label."""
        return self.label
