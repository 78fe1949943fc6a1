"""Sizes that follow from the protocols: what VXLAN adds to a packet, and the smallest MTUs. Bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OVERHEAD: Final[Mapping[int, int]] = {4: 14 + 8 + 8 + 20, 6: 14 + 8 + 8 + 40}
"""Inner Ethernet, VXLAN, UDP and the outer IP header together, by the underlay's IP version."""

MIN_MTU: Final = 68
"""RFC 791 section 3.2: every IPv4 link carries this much."""

MIN_MTU_V6: Final = 1280
"""RFC 8200 section 5: every IPv6 link carries this much."""
