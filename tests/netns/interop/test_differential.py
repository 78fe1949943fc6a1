"""A kernel vxlan device and vxland get the same, sound and mutated: what they make of it differs by decision only.

VXLAND_SEEDS=5 runs five times as many, VXLAND_SEED=77 starts elsewhere; see side_by_side.py for the topology.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from .decisions import DECAP, ENCAP, RESERVED, no_ethernet, without_reserved
from .lab import ROOT, Gear, Lab
from .mutations import datagrams, device_frames
from .side_by_side import decapsulated, encapsulated, up

pytestmark = pytest.mark.netns

FIRST = int(os.environ.get("VXLAND_SEED", "7348"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("VXLAND_SEEDS", "1")))
COUNT = 3000
"""Of datagrams, and of frames, for each seed."""


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Either gear of vxland and the kernel's device, with one MAC."""
    gear: Gear = request.param
    made = Lab(tmp_path_factory.mktemp("lab"), gear)
    try:
        up(made)
        yield made
    finally:
        made.down()


@pytest.mark.parametrize("seed", SEEDS)
def test_datagrams_come_to_the_same(lab: Lab, seed: int) -> None:
    """VXLAN and inner headers, lengths, checksums, tags, fragments and all outer ECN fields, octet for octet.

    Reserved bits that vxland ignores: the datagram comes to what the kernel makes of it without them.
    """
    given = list(islice(datagrams(random.Random(seed)), COUNT))  # noqa: S311  (repeatable, not secret)
    kernels = decapsulated(lab.b, lab.a, given)
    ours = decapsulated(lab.a, lab.b, given)
    cleared = {at: plain for at, mutant in enumerate(given) if (plain := without_reserved(mutant))}
    again = dict(zip(cleared, decapsulated(lab.b, lab.a, list(cleared.values())), strict=True))
    found: Counter[str] = Counter()
    for at, (mutant, kernel, mine) in enumerate(zip(given, kernels, ours, strict=True)):
        wanted = kernel
        if at in again and kernel == [] != again[at]:
            found[RESERVED] += mine != []
            wanted = [] if no_ethernet(mutant) else again[at]
        if mine != wanted:
            reasons = [name for name, explains in DECAP.items() if explains(mutant, wanted, mine)]
            assert len(reasons) == 1, told(at, mutant, kernel, mine)
            found.update(reasons)
    assert found.keys() == {RESERVED, *DECAP}
    assert sum(map(bool, kernels)) > COUNT / 3


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_come_to_the_same(lab: Lab, seed: int) -> None:
    """What leaves on the underlay, but for addresses, source port and IP identification; and what comes back."""
    given = list(islice(device_frames(random.Random(seed)), COUNT))  # noqa: S311  (repeatable, not secret)
    kernels = encapsulated(lab.b, given, answers=False)
    ours = encapsulated(lab.a, given, answers=True)
    found: Counter[str] = Counter()
    for at, (frame, kernel, mine) in enumerate(zip(given, kernels, ours, strict=True)):
        assert all(each.checksum_good for each in kernel.datagrams + mine.datagrams)
        if mine != kernel:
            reasons = [name for name, explains in ENCAP.items() if explains(frame, kernel, mine)]
            assert len(reasons) == 1, told(at, frame, kernel, mine)
            found.update(reasons)
    assert found.keys() == ENCAP.keys()
    assert sum(bool(each.datagrams) for each in kernels) > COUNT / 3


def test_every_decision_is_documented() -> None:
    """By the name it has here."""
    text = Path(ROOT, "docs", "architecture.md").read_text(encoding="utf-8")
    assert [name for name in (RESERVED, *DECAP, *ENCAP) if f"\n| {name} |" not in text] == []


def told(at: int, given: object, kernel: object, mine: object) -> str:
    """A difference that no decision explains, or several do."""
    return f"{at}: {given}\nkernel: {kernel}\nvxland: {mine}"
