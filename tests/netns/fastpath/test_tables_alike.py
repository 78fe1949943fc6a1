"""Tables that change: the program finds the VTEP of a packet's source, and of its sender, as the daemon does."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import MAC_B, OUTER_A, OWN_MAC, POD_A, POD_A6, UDP, frame_of, packet_of, udp
from tests.netns.fastpath.alike import assert_decap_alike, assert_encap_alike
from tests.netns.fastpath.loaded import Loaded
from tests.netns.fastpath.packets import arriving
from tests.overlapping import PROBES_4, PROBES_6, PROBES_OUTER, VTEPS, clusters
from vxland.model.kernel_state import OuterHeader
from vxland.model.lease import Lease
from vxland.model.source_check import SourceCheck

pytestmark = pytest.mark.netns

INNER_FRAMES = [
    frame_of(packet_of(str(src), dst, UDP, udp(str(src), dst, b"x")), OWN_MAC, MAC_B)
    for sources, dst in ((PROBES_4, POD_A), (PROBES_6, POD_A6))
    for src in sources
]
OUTBOUND = [
    frame_of(packet_of(src, str(dst), UDP, udp(src, str(dst), b"x")), vtep.mac.value)
    for (src, destinations), vtep in product(((POD_A, PROBES_4[:2]), (POD_A6, PROBES_6[:1])), VTEPS)
    for dst in destinations
]


@settings(max_examples=150)
@given(st.lists(clusters, min_size=1, max_size=3), st.sampled_from(SourceCheck))
def test_vteps_are_found_alike(loaded: Loaded, found: list[list[Lease]], level: SourceCheck) -> None:
    """One table after the other, in the kernel's own maps: from every source, of every sender, to every MAC."""
    for each in found:
        known = loaded.follow(each)
        loaded.set(check=level)
        loaded.forget()
        for src, frame in product(PROBES_OUTER, INNER_FRAMES):
            packet = arriving(frame, str(src), OUTER_A)
            loaded.restart_counts()
            outcome = loaded.decap(packet)
            if outcome.carried:
                vtep = assert_decap_alike(packet, outcome.packet, known.table, level)
                assert loaded.counts()[1] == {vtep: (0, 0, 1, len(frame))}
        for frame in OUTBOUND:
            outcome = loaded.encap(frame)
            if outcome.carried:
                assert_encap_alike(frame, outcome.packet, known, OuterHeader())
