"""The compiled pump makes no Python object for a frame (DESIGN decision 3).

Three measurements of wake-ups that differ only in how many frames they meet: blocks kept, peak of traced memory, and
the number of allocations. Each has a control that does what must not be done and is caught by it.
"""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.fabric import HERE, UDP_GRO, Lone, Node, received_trains, send_train, wait_readable
from tests.frames import (
    ARP,
    BROADCAST,
    MAC_C,
    OWN_MAC,
    PLAIN,
    POD_A,
    POD_A6,
    POD_B,
    POD_B6,
    STRANGER,
    UDP,
    arp,
    ethernet,
    from_b,
    packet_of,
    ping,
    pong,
    udp,
    udp_frame,
    vxlan,
)
from tests.stream import TCP4, UDP6, reverse
from vxland.forwarding.pump import COMPILED

compiled_only = pytest.mark.skipif(not COMPILED, reason="the interpreted gear makes objects, being Python")
WAKE_UPS = 20
FEW, MANY = 8, 64
"""Frames of a wake-up; both meet every kind that `fill` knows."""
PIECE_LEN = 500
SUPER = bytes(4 * PIECE_LEN + 300)
"""The payload of superframes, smaller than a real pod's so that 64 frames find room in the socket."""
LIMIT = 200
"""Allocations that can be counted."""


def broken(frame: bytes) -> bytes:
    """The same with a corrupt payload."""
    return frame[:-1] + bytes([frame[-1] ^ 1])


FROM_THE_TAP = [
    (PLAIN, ping()),
    (PLAIN, ping()),  # boards the train of the one before it
    (TCP4.virtio(PIECE_LEN), TCP4.superframe(SUPER)),
    (UDP6.virtio(PIECE_LEN), UDP6.superframe(SUPER)),
    (PLAIN, ping(dst_mac=MAC_C)),
    (PLAIN, udp_frame(POD_A6, POD_B6, ecn=2)),
    (PLAIN, udp_frame(POD_A, STRANGER)),
    (PLAIN, ethernet(BROADCAST, OWN_MAC, ARP, arp(1, OWN_MAC, POD_A, POD_B))),
]
"""Frames that are forwarded, grouped, cut, answered and dropped, behind their virtio headers."""
FROM_TCP, FROM_UDP = reverse(TCP4).segments(SUPER, PIECE_LEN), reverse(UDP6).segments(SUPER, PIECE_LEN)
FROM_THE_PEER = [
    [pong()],
    FROM_TCP,
    FROM_UDP,
    [b""],
    [*FROM_TCP[:2], broken(FROM_TCP[2]), *FROM_TCP[3:]],
    [from_b(packet_of(POD_B, POD_A, UDP, udp(POD_B, POD_A, b"", partial=True)))],
]
"""Frames that come alone, as the buffers of UDP_GRO that are joined to a run each, and with a corrupt one inside."""


def fill(node: Node, peer: socket.socket, frames: int) -> None:
    """Let so many frames wait in the TAP, and so many buffers in the socket: to be forwarded, answered and dropped."""
    for i in range(frames):
        virtio, frame = FROM_THE_TAP[i % len(FROM_THE_TAP)]
        node.put(frame, virtio)
        send_train(peer, [vxlan(frame) for frame in FROM_THE_PEER[i % len(FROM_THE_PEER)]], (HERE, node.udp.port))
    if frames:
        wait_readable(node.udp.receiver)


def both_callbacks(node: Node) -> Callable[[int], None]:
    """Run a wake-up of both directions; only the control measurements use the number of frames."""
    on_tap, on_udp = node.pump.on_tap_readable, node.pump.on_udp_readable

    def wake(_frames: int) -> None:
        on_tap()
        on_udp()

    return wake


def empty(node: Node, peer: socket.socket) -> None:
    """Take what came out, so that no buffer fills."""
    node.read_host()
    node.came.clear()
    while True:
        try:
            peer.recv(2000)
        except BlockingIOError:
            return


def growth(lone: Lone, wake: Callable[[int], None], frames: int, wake_ups: int) -> tuple[int, int]:
    """Python blocks kept, and the highest bytes of Python memory in use at once, over wake-ups of `frames` each."""
    node, peer = lone
    kept = highest = 0
    for _ in range(wake_ups):
        fill(node, peer, frames)
        gc.disable()
        tracemalloc.start()
        blocks = sys.getallocatedblocks()
        wake(frames)
        kept += sys.getallocatedblocks() - blocks
        highest = max(highest, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        gc.enable()
        empty(node, peer)
    return kept, highest


@compiled_only
def test_a_wake_up_meets_every_offload(lone: Lone) -> None:
    """The measurements below cover real work: superframes are cut, frames grouped, runs joined."""
    node, peer = lone
    peer.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    fill(node, peer, MANY)
    both_callbacks(node)(MANY)
    node.read_host()
    trains = {(len(buffer), stride) for buffer, stride in received_trains(peer) if stride}
    assert {(4 * (62 + PIECE_LEN) + 362, 62 + PIECE_LEN), (2 * (8 + len(ping())), 8 + len(ping()))} <= trains
    supers = [reverse(stream).virtio(PIECE_LEN) + reverse(stream).superframe(SUPER) for stream in (TCP4, UDP6)]
    assert [node.came.count(raw) for raw in supers] == [11, 11]
    assert node.came.count(PLAIN + broken(FROM_TCP[2])) == 10


@compiled_only
def test_frames_leave_no_object_behind(lone: Lone) -> None:
    """As many wake-ups with eight times the frames (1280 each way) keep no block more and use no byte more.

    Blocks are what the object allocator has handed out and not got back; the peak of traced memory also shows what was
    large and freed again. What a wake-up itself costs is the same for FEW and for MANY frames.
    """
    wake = both_callbacks(lone[0])
    growth(lone, wake, MANY, 2)
    few, many = growth(lone, wake, FEW, WAKE_UPS), growth(lone, wake, MANY, WAKE_UPS)
    assert many == few
    assert lone[0].pump.encap_counters.frames >= WAKE_UPS * MANY // 2


def test_an_object_left_behind_would_be_seen(lone: Lone) -> None:
    """The control: a list that keeps one object for each frame, on top of the same callbacks."""
    kept: list[object] = []
    wake = both_callbacks(lone[0])

    def hoarding(frames: int) -> None:
        wake(frames)
        kept.extend(object() for _ in range(frames))

    growth(lone, hoarding, MANY, 2)
    few, many = growth(lone, hoarding, FEW, WAKE_UPS), growth(lone, hoarding, MANY, WAKE_UPS)
    assert many[0] - few[0] > WAKE_UPS * (MANY - FEW - 1)  # less what the callbacks keep in either case
    assert many[1] > few[1]


def allocations(testcapi: ModuleType, lone: Lone, wake: Callable[[int], None], frames: int) -> int | None:
    """Return the number of allocations in a wake-up, freed or not; None for more than LIMIT.

    CPython's own test hook, which sees all of its allocators, is set to fail the allocation after LIMIT others. The
    wake-up makes some of those; the ones that can be made after it, one at a time until one fails, are the rest.
    """
    fill(*lone, frames)
    set_nomemory, remove = testcapi.set_nomemory, testcapi.remove_mem_hooks
    woken, left = False, 0
    gc.disable()
    try:
        set_nomemory(LIMIT, LIMIT + 1)
        wake(frames)
        woken = True
        while left <= LIMIT:
            object()
            left += 1  # small integers exist already
    except MemoryError:
        pass
    finally:
        remove()
        gc.enable()
    empty(*lone)
    return LIMIT - left if woken and left <= LIMIT else None


@pytest.fixture
def testcapi() -> ModuleType:
    """The hook's module; Debian, for one, packs it apart."""
    module: ModuleType = pytest.importorskip("_testcapi", reason="this Python came without its test modules")
    return module


@compiled_only
def test_frames_cost_no_allocation(lone: Lone, testcapi: ModuleType) -> None:
    """A wake-up of 64 frames each way makes as many allocations as one of a single frame: not even one that is freed.

    The controls below make one for each frame, and run the interpreted gear.
    """
    wake = both_callbacks(lone[0])
    growth(lone, wake, MANY, 2)
    one = allocations(testcapi, lone, wake, 1)
    assert one is not None
    assert allocations(testcapi, lone, wake, MANY) == one


@compiled_only
def test_an_allocation_for_each_frame_would_be_counted(lone: Lone, testcapi: ModuleType) -> None:
    """The control: one object for each frame, freed before the next is made, is counted to the last."""
    wake = both_callbacks(lone[0])

    def wasteful(frames: int) -> None:
        wake(frames)
        for _ in range(frames):
            object()

    growth(lone, wasteful, MANY, 2)
    one, many = (allocations(testcapi, lone, wasteful, frames) for frames in (1, MANY))
    assert one is not None
    assert many is not None
    assert many - one == MANY - 1


@pytest.mark.skipif(COMPILED, reason="the other control")
def test_the_interpreted_gear_allocates_for_each_frame(lone: Lone, testcapi: ModuleType) -> None:
    """The same measurement of the same callbacks, interpreted: the count grows with the frames, or passes LIMIT."""
    wake = both_callbacks(lone[0])
    growth(lone, wake, MANY, 2)
    one, two = (allocations(testcapi, lone, wake, frames) for frames in (1, 2))
    assert one is None or two is None or two > one
