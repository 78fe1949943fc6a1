"""Drops by the kernel in front of vxland, counted since the start, each cause separately."""

from __future__ import annotations

import pytest

from vxland.inspect.reasons import QUEUES
from vxland.kernel import kernel_drops
from vxland.kernel.kernel_drops import QueueDrops, bad_checksums, full_sockets, lost_at_tap, lost_below


class Kernel:
    """The kernel's counters, set by the test."""

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
    """Make counters of devices, sockets and a node that existed before."""
    return Kernel(monkeypatch)


def lost(drops: QueueDrops) -> dict[tuple[str, str], int]:
    """Return the counts that are not 0."""
    counted = drops.by_direction()
    assert [set(counts) for counts in counted.values()] == [set(QUEUES)] * 2
    return {
        (direction, word): count for direction, counts in counted.items() for word, count in counts.items() if count
    }


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_has_the_counters(version: int) -> None:
    """Both IP versions have all of them."""
    for counter in (lost_below, full_sockets, bad_checksums):
        assert counter(version) is not None


def test_an_underlay_elsewhere_has_none_here() -> None:
    """The counters of this network namespace belong to other sockets; a socket's own count is a full queue."""
    assert [counter(None) for counter in (lost_below, full_sockets, bad_checksums)] == [None] * 3
    lost_in_sockets = iter((10, 17, 17))
    drops = QueueDrops("vxland-none", None, lambda: next(lost_in_sockets), lambda: None)
    assert lost(drops) == {("decap", "socket_queue_full"): 7}


def test_no_such_device() -> None:
    """Its drops are unknown."""
    assert lost_at_tap("lo") is not None
    assert lost_at_tap("vxland-none") is None


def test_only_later_drops_count(kernel: Kernel) -> None:
    """Devices, sockets and the node existed before, with counts of their own."""
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
    """The socket counts long datagrams, the network namespace short ones too; no queue was full."""
    drops = kernel.follow()
    kernel.sockets, kernel.checksum = 904, 67
    assert lost(drops) == {("decap", "outer_checksum"): 7}


def test_other_programs_full_queues_are_not_ours(kernel: Kernel) -> None:
    """The namespace counts all programs' sockets; ours lost no more than they count themselves."""
    drops = kernel.follow()
    kernel.sockets, kernel.full = 902, 1000
    assert lost(drops) == {("decap", "socket_queue_full"): 2}


def test_drops_by_nftables(kernel: Kernel) -> None:
    """Its rule has a counter of its own, before any socket."""
    drops = kernel.follow()
    kernel.nftables = 14
    assert lost(drops) == {("decap", "input_filtered"): 14}


def test_a_kernel_without_separate_counters(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the namespace's counters, every drop of the sockets counts as a full queue."""
    monkeypatch.setattr(kernel_drops, "full_sockets", lambda _version: None)
    monkeypatch.setattr(kernel_drops, "bad_checksums", lambda _version: None)
    drops = kernel.follow()
    kernel.sockets = 903
    assert lost(drops) == {("decap", "socket_queue_full"): 3}


def test_a_new_device_of_the_name_continues_the_count(kernel: Kernel) -> None:
    """The kernel starts at 0 for the new one; `tap_queue_full` did not rise until it reached the old count."""
    drops = kernel.follow()
    kernel.tap = 8
    assert lost(drops) == {("encap", "tap_queue_full"): 3}
    kernel.tap = 0
    drops.renewed()
    kernel.tap = 2
    assert lost(drops) == {("encap", "tap_queue_full"): 5}
    assert drops.at_tap == 10
