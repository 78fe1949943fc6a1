"""The conditions for programs, and the frames that they take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vxland.fastpath.choice import (
    BEAT_S,
    CALM_S,
    HUNG_NS,
    LEAST_QUOTA,
    ON_THE_WAY_NS,
    THROTTLED_SHARE,
    TUNNEL_SEGMENTATION,
    WINDOW_S,
    CpuShortage,
    Surroundings,
    carries_superframes,
    may_carry_superframes,
    why_not,
)
from vxland.model.kernel_state import Offloads, Use

GOOD = Surroundings(
    wanted=True,
    elsewhere=False,
    address_version=4,
    is_ethernet=True,
    in_vrf=False,
    has_ipsec=False,
    little_endian=True,
    has_address=True,
)


def test_there_are_programs_where_nothing_forbids_them() -> None:
    """An empty reason."""
    assert why_not(GOOD) == ""


@pytest.mark.parametrize(
    ("around", "word"),
    [
        (replace(GOOD, wanted=False), "datapath.fast_path"),
        (replace(GOOD, elsewhere=True), "another network namespace"),
        (replace(GOOD, address_version=6), "IPv6"),
        (replace(GOOD, is_ethernet=False), "Ethernet"),
        (replace(GOOD, in_vrf=True), "VRF"),
        (replace(GOOD, has_ipsec=True), "IPsec"),
        (replace(GOOD, has_address=False), "gone"),
        (replace(GOOD, little_endian=False), "little-endian"),
    ],
)
def test_each_condition_has_a_reason(around: Surroundings, word: str) -> None:
    """It names what stands in the way."""
    assert word in why_not(around)


def test_what_is_not_wanted_needs_no_other_reason() -> None:
    """Whatever else is missing."""
    around = Surroundings(
        wanted=False,
        elsewhere=True,
        address_version=6,
        is_ethernet=False,
        in_vrf=True,
        has_ipsec=True,
        little_endian=False,
        has_address=False,
    )
    assert why_not(around) == why_not(replace(GOOD, wanted=False))


def test_superframes_need_all_of_tunnel_segmentation() -> None:
    """Otherwise the kernel cuts them in software."""
    assert carries_superframes([*TUNNEL_SEGMENTATION, "rx-gro"])
    for feature in TUNNEL_SEGMENTATION:
        assert not carries_superframes(TUNNEL_SEGMENTATION - {feature})
    assert not carries_superframes([])


@pytest.mark.parametrize("name", ["tso", "uso", "udp_segment"])
def test_an_offload_that_is_off_keeps_superframes_from_programs(name: str) -> None:
    """An operator who distrusts superframes on the way out wants none of programs."""
    assert may_carry_superframes(Offloads())
    assert may_carry_superframes(Offloads(udp_gro="off", join_tcp="off", join_udp="off"))
    off: dict[str, Use] = {name: "off"}
    assert not may_carry_superframes(replace(Offloads(), **off))


def test_the_times_are_in_order() -> None:
    """Several signs of life are missing before the daemon counts as hung."""
    assert ON_THE_WAY_NS < BEAT_S * 1e9
    assert BEAT_S * 1e9 * 3 < HUNG_NS


STEP = WINDOW_S * 1.5


def followed(shortage: CpuShortage, throttled: list[float], since: float = 0.0, total: float = 0.0) -> list[bool]:
    """Return the judgment after each window, for the share of it for which the quota stopped the daemon."""
    found = []
    for i, share in enumerate(throttled):
        total += share * STEP
        found.append(shortage.follow(2.0, total, since + i * STEP))
    return found


def test_a_daemon_that_is_hardly_stopped_goes_on() -> None:
    """Below the share."""
    assert followed(CpuShortage(), [0, THROTTLED_SHARE * 0.9, 0, THROTTLED_SHARE * 0.9]) == [False] * 4


def test_a_daemon_that_is_stopped_leaves_all_to_the_programs() -> None:
    """From the first window on in which it was; what was before the first look counts for nothing."""
    assert followed(CpuShortage(), [1, 0, THROTTLED_SHARE * 1.1, 0]) == [False, False, True, True]


def test_it_is_tried_again_after_a_calm_time() -> None:
    """That time begins again whenever it is stopped."""
    shortage = CpuShortage()
    assert followed(shortage, [0, 1]) == [False, True]
    assert shortage.follow(2.0, STEP, STEP + CALM_S - 1)
    assert not shortage.follow(2.0, STEP, STEP + CALM_S + 1)
    assert shortage.follow(2.0, STEP + 60, STEP + CALM_S + 60)


def test_two_looks_within_a_window_are_one() -> None:
    """A short moment in which it was stopped is no share of the time."""
    shortage = CpuShortage()
    assert not shortage.follow(None, 0, 0)
    assert not shortage.follow(None, WINDOW_S / 4, WINDOW_S / 3)
    assert shortage.follow(None, WINDOW_S / 4, WINDOW_S * 1.1)


def test_a_small_quota_is_a_shortage() -> None:
    """It need not stop the daemon first. No quota is none."""
    assert CpuShortage().follow(LEAST_QUOTA * 0.99, 0, 0)
    assert not CpuShortage().follow(LEAST_QUOTA, 0, 0)
    assert not CpuShortage().follow(None, 0, 0)
