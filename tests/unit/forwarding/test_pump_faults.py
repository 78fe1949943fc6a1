"""Drops, refusals of the kernel and faults of the TAP, as the real pump counts and reports them."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.fabric import (
    ELSEWHERE,
    HERE,
    FullSender,
    Lone,
    fill_up,
    lone_node,
    received,
    received_in_all,
    run,
    wait_readable,
)
from tests.frames import (
    BROADCAST,
    MAC_B,
    MAC_C,
    OWN_MAC,
    PLAIN,
    POD_A,
    STRANGER,
    ethernet,
    ping,
    pong,
    udp_frame,
    vxlan,
)


def test_drops_are_counted_by_reason(lone: Lone) -> None:
    """One of each that a peer or the host can provoke; frames behind them cross."""
    node, peer = lone
    for frame in (
        ethernet(BROADCAST, OWN_MAC, 0x88CC, b""),
        udp_frame(POD_A, STRANGER),
        ethernet(MAC_C, OWN_MAC, 0x0800, b"broken"),
        ping(),
    ):
        node.put(frame)
    node.pump.on_tap_readable()
    assert received(peer) == [vxlan(ping())]
    for datagram in (b"short", bytes(8), vxlan(b"", vni=2), vxlan(b"tiny"), vxlan(ping()), vxlan(pong())):
        peer.sendto(datagram, (HERE, node.udp.port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.bind((ELSEWHERE, 0))
        outsider.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: sum(node.pump.decap_counters.by_reason().values()) == 6 and len(node.came) == 2)
    encap, decap = node.pump.encap_counters, node.pump.decap_counters
    assert {k: v for k, v in encap.by_reason().items() if v} == {"bum": 1, "no_vtep": 1, "inner_malformed": 1}
    assert {k: v for k, v in decap.by_reason().items() if v} == {
        "too_short": 1,
        "i_flag_clear": 1,
        "wrong_vni": 1,
        "inner_malformed": 1,
        "own_mac": 1,
        "unknown_vtep": 1,
    }
    assert (encap.frames, encap.answers, decap.frames) == (1, 1, 1)
    assert node.frames()[1] == pong()


def test_a_runt_from_the_tap_is_malformed(lone: Lone) -> None:
    """Shorter than its virtio header: a drop like any other, and no fault; the frame behind it crosses."""
    node, peer = lone
    for nbytes in range(1, 11):
        node.host.send(bytes(nbytes))
    node.put(ping())
    node.pump.on_tap_readable()
    assert received(peer) == [vxlan(ping())]
    assert node.pump.encap_counters.by_reason()["inner_malformed"] == 10
    assert node.faults == []


def test_a_datagram_the_kernel_refuses_is_counted(lone: Lone) -> None:
    """EMSGSIZE: with its VXLAN header it is longer than UDP can carry. The frames around it cross."""
    node, peer = lone
    for frame in (ping(1), ethernet(MAC_B, OWN_MAC, 0x88CC, bytes(65_507 - 8 - 14 + 1)), ping(2)):
        node.put(frame)
    node.pump.on_tap_readable()
    assert received_in_all(peer, 2) == [vxlan(ping(1)), vxlan(ping(2))]
    assert {k: v for k, v in node.pump.encap_counters.by_reason().items() if v} == {"too_big": 1}
    assert (node.narrowed, node.refusals) == (1, [])
    assert node.pump.encap_counters.frames == 2


def test_a_full_send_buffer_drops_the_tail() -> None:
    """EAGAIN is counted apart from refusals and is not reported as an error."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with lone_node(source_ports=1) as (node, _), FullSender(fileno=near.detach()) as full, far:
        full.setblocking(False)
        node.udp.senders[0].close()
        node.udp.senders[0] = full
        pump = node.new_pump(node.pump.table)
        node.put(ping())
        pump.on_tap_readable()
        assert far.recv(2000) == vxlan(ping())
        fill_up(full)
        for i in range(3):
            node.put(ping(i))
        pump.on_tap_readable()
        assert {k: v for k, v in pump.encap_counters.by_reason().items() if v} == {"send_buffer_full": 3}
        assert (pump.encap_counters.frames, pump.last_send_errno, node.faults) == (1, 0, [])


def test_a_frame_that_the_tap_refuses_is_counted(lone: Lone) -> None:
    """With the kernel's error; the frames before it arrived."""
    node, peer = lone
    fill_up(node.tap)
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    wait_readable(node.udp.receiver)
    node.pump.on_udp_readable()
    assert {k: v for k, v in node.pump.decap_counters.by_reason().items() if v} == {"tap_write_failed": 1}
    assert node.pump.last_write_errno == errno.EAGAIN
    node.read_host()
    peer.sendto(vxlan(pong()), (HERE, node.udp.port))
    run([node], lambda: node.came[-1:] == [PLAIN + pong()])
    assert node.pump.decap_counters.frames == 1


@pytest.mark.parametrize("kind", ["closed", "a directory"])
def test_a_tap_that_cannot_be_read_is_a_fault(lone: Lone, kind: str, tmp_path: Path) -> None:
    """The errno is reported once for each wake-up: EBADF (a TAP whose device is gone gives EBADFD), EISDIR."""
    node, _ = lone
    handle = os.open(tmp_path, os.O_RDONLY) if kind == "a directory" else -1
    node.new_pump(node.pump.table, handle).on_tap_readable()
    assert node.faults == [errno.EISDIR if kind == "a directory" else errno.EBADF]
    if handle >= 0:
        os.close(handle)


def test_nothing_to_read_is_no_fault(lone: Lone) -> None:
    """A callback that was called for nothing, as event loops may."""
    node, _ = lone
    node.pump.on_tap_readable()
    node.pump.on_udp_readable()
    assert node.faults == []
    assert node.pump.encap_counters.frames == node.pump.decap_counters.frames == 0
