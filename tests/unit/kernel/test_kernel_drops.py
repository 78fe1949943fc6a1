"""What the kernel drops beside vxland, counted since the start, each cause by itself."""

from __future__ import annotations

import pytest

from vxland.inspect.reasons import QUEUES
from vxland.kernel import kernel_drops
from vxland.kernel.kernel_drops import QueueDrops, bad_checksums, full_sockets, lost_at_tap, lost_below


class Kernel:
    """The kernel's counters, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tap, self.below, self.sockets, self.full, self.checksum = 5, 70, 900, 800, 60
        self.nftables: int | None = None
        monkeypatch.setattr(kernel_drops, "lost_at_tap", lambda _name: self.tap)
        monkeypatch.setattr(kernel_drops, "lost_below", lambda _version: self.below)
        monkeypatch.setattr(kernel_drops, "full_sockets", lambda _version: self.full)
        monkeypatch.setattr(kernel_drops, "bad_checksums", lambda _version: self.checksum)

    def follow(self) -> QueueDrops:
        """Count from now on."""
        return QueueDrops("flannel.1", 4, lambda: self.sockets, lambda: self.nftables)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Counters of devices, sockets and a node that were there before."""
    return Kernel(monkeypatch)


def lost(drops: QueueDrops) -> dict[tuple[str, str], int]:
    """What was lost, without what was not."""
    told = drops.by_direction()
    assert [set(counts) for counts in told.values()] == [set(QUEUES)] * 2
    return {(way, word): count for way, counts in told.items() for word, count in counts.items() if count}


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_tells(version: int) -> None:
    """Both families have all the counters."""
    for counter in (lost_below, full_sockets, bad_checksums):
        assert counter(version) is not None


def test_no_such_device() -> None:
    """It has lost nothing that anybody knows of."""
    assert lost_at_tap("lo") is not None
    assert lost_at_tap("vxland-none") is None


def test_only_what_came_since(kernel: Kernel) -> None:
    """Devices, sockets and the node itself were there before, and their counters too."""
    drops = kernel.follow()
    assert lost(drops) == {}
    kernel.tap, kernel.below, kernel.sockets, kernel.full = 6, 72, 903, 803
    found = lost(drops)
    kernel.tap = 0  # the device is deleted
    assert lost(drops) == found
    assert drops.at_tap == 6
    assert found == {
        (QUEUES[word].direction, word): count
        for word, count in (("tap_queue_full", 1), ("underlay_queue_full", 2), ("socket_queue_full", 3))
    }


def test_a_bad_checksum_is_no_full_queue(kernel: Kernel) -> None:
    """The socket counts long ones of them, the network namespace short ones too; no queue was full."""
    drops = kernel.follow()
    kernel.sockets, kernel.checksum = 904, 67
    assert lost(drops) == {("decap", "outer_checksum"): 7}


def test_other_programs_full_queues_are_not_ours(kernel: Kernel) -> None:
    """The namespace counts all programs' sockets; ours have lost no more than they count themselves."""
    drops = kernel.follow()
    kernel.sockets, kernel.full = 902, 1000
    assert lost(drops) == {("decap", "socket_queue_full"): 2}


def test_what_nftables_refuses(kernel: Kernel) -> None:
    """Its rule counts by itself, before any socket."""
    drops = kernel.follow()
    kernel.nftables = 14
    assert lost(drops) == {("decap", "input_filtered"): 14}


def test_a_kernel_that_does_not_tell_apart(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the namespace's counters, all that the sockets lose is for a full queue."""
    monkeypatch.setattr(kernel_drops, "full_sockets", lambda _version: None)
    monkeypatch.setattr(kernel_drops, "bad_checksums", lambda _version: None)
    drops = kernel.follow()
    kernel.sockets = 903
    assert lost(drops) == {("decap", "socket_queue_full"): 3}


def test_a_device_that_was_made_again_counts_on(kernel: Kernel) -> None:
    """The kernel begins at 0 for the new one; `tap_queue_full` stood still until it was as far as the old one's."""
    drops = kernel.follow()
    kernel.tap = 8
    assert lost(drops) == {("encap", "tap_queue_full"): 3}
    kernel.tap = 0
    drops.renewed()
    kernel.tap = 2
    assert lost(drops) == {("encap", "tap_queue_full"): 5}
    assert drops.at_tap == 10
