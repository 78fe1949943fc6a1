"""Labs of two vxlands with every offload or none, and the frames that arrive on their devices."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vxland.inspect.reasons import QUEUES

from .asking import ask_json
from .conftest import running
from .lab import DataPath, Lab, Node, Vxland
from .ns import Ns

ETH_P_ALL, PACKET_OUTGOING = 3, 4
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_RCVBUFFORCE = 33

both_families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def with_offloads(directory: Path, data_path: DataPath = "compiled") -> Iterator[Lab]:
    """Run two nodes with every offload, in the compiled gear, with or without the fast path."""
    made = Lab(directory, data_path, data_path)
    for vxland in both(made):
        vxland.settings["datapath"] |= {"offloads": {"join_udp": "on"}}
    for lab in running(made):
        for vxland in both(lab):
            (opened,) = vxland.events("devices_open")
            assert (opened["tso"], opened["udp_gro"]) == (True, True)
            assert opened["udp_segment"] in {64, 128}
        yield lab


def without_offloads(directory: Path) -> Iterator[Lab]:
    """Run two nodes without any offload, in the interpreted gear."""
    for lab in running(Lab(directory, "interpreted", "interpreted")):
        for vxland in both(lab):
            (opened,) = vxland.events("devices_open")
            assert [opened[offload] for offload in ("tso", "uso", "udp_segment", "udp_gro")] == [False, False, 1, False]
        yield lab


def both(lab: Lab) -> tuple[Vxland, Vxland]:
    """Return the daemons of a lab of two."""
    assert lab.other is not None
    return lab.vxland, lab.other


def nothing_dropped(lab: Lab) -> None:
    """Assert that neither daemon has dropped a frame except multicast, and at full queues."""
    for vxland in both(lab):
        stats = ask_json(vxland, "stats")
        for way, allowed in (("decap", QUEUES), ("encap", {"bum", *QUEUES})):
            drops = {reason: count for reason, count in stats[way]["drops"].items() if count}
            assert drops.keys() <= set(allowed), drops


def restarted_without_drops(lab: Lab, *but: str) -> None:
    """Assert that neither daemon dropped a frame except multicast and these; then restart both, with every offload."""
    for vxland in both(lab):
        try:
            assert vxland.stop() == 0
            assert vxland.drops("decap") == {}
            assert set(vxland.drops("encap")) <= {"bum", *but}
        finally:
            vxland.start()


@contextmanager
def cut_before_the_pod(node: Node) -> Iterator[None]:
    """The device between a node's bridge and its pod has no offload: the kernel cuts and sums what it sends there."""
    features = ("tx", "tso", "gso", "tx-udp-segmentation")  # in the order in which they can be switched on again
    node.ns.run("ethtool", "-K", "pod", *(word for feature in features for word in (feature, "off")))
    try:
        yield
    finally:
        for feature in features:
            node.ns.run("ethtool", "-K", "pod", feature, "on")


@contextmanager
def captured(ns: Ns, device: str) -> Iterator[Callable[[], list[bytes]]]:
    """Yield a function that returns the frames received on a device so far; a superframe is one frame."""
    sock = ns.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    frames: list[bytes] = []

    def read() -> list[bytes]:
        # A fixed number: a stream may bring frames faster than they are read.
        came, lost = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        for _ in range(came - lost):
            frame, whence = sock.recvfrom(1 << 17)
            if whence[2] != PACKET_OUTGOING:
                frames.append(frame)
        return frames

    with sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
        sock.bind((device, ETH_P_ALL))
        yield read
