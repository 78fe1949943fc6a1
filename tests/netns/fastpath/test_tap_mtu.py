"""Frames that are longer than the TAP's MTU: a peer's device may have a larger one.

peer ── e0 ── vxland_decap ── tap
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.frames import OUTER_A, PORT
from tests.netns.fastpath.loaded import TAP, UNDERLAY, Loaded
from tests.netns.fastpath.packets import MANY, arriving
from tests.netns.fastpath.wire import Wire, mac_of, wired
from tests.patience import PATIENCE_S
from tests.stream import Stream, each_stream, numbered, reverse

pytestmark = pytest.mark.netns

MTU = 1300


@pytest.fixture(scope="module")
def wire(loaded: Loaded) -> Iterator[Wire]:
    """The programs on their devices."""
    subprocess.run(["ip", "link", "set", TAP, "mtu", str(MTU)], check=True)
    with wired(loaded) as wire:
        loaded.set(mtu=MTU)
        yield wire


@each_stream
def test_a_frame_longer_than_the_mtu_is_the_daemons(loaded: Loaded, wire: Wire, stream: Stream) -> None:
    """A program's frame was dropped at the TAP, whose MTU holds for received frames too, unlike for a daemon's."""
    loaded.follow(MANY)
    loaded.forget()
    room = MTU + 14 - stream.headers_len
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.settimeout(PATIENCE_S)
        daemon.bind((OUTER_A, PORT))
        for length in (room, room + 1, room + 4, room + 5, room + 140):
            loaded.forget()
            frame = reverse(stream).frame(numbered(length))
            wire.peer.send(bytes(10) + arriving(frame, outer_mac=mac_of(UNDERLAY)))
            if length == room:
                assert wire.next_frame() == frame
            else:
                assert daemon.recv(1 << 16)[8:] == frame
