"""A kernel vxlan device and vxland get the same input, sound and mutated: only documented decisions may differ.

VXLAND_SEEDS=5 runs five times as many, VXLAND_SEED=77 starts with another seed; see side_by_side.py for the topology.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from .daemon import ROOT, Gear
from .decisions import DECAP, ENCAP, RESERVED, no_ethernet, without_reserved
from .lab import Lab
from .mutations import datagrams, device_frames
from .side_by_side import decapsulated, encapsulated, up

pytestmark = pytest.mark.netns

FIRST = int(os.environ.get("VXLAND_SEED", "7348"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("VXLAND_SEEDS", "1")))
COUNT = 3000
"""Number of datagrams, and of frames, for each seed."""


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _able: None) -> Iterator[Lab]:
    """Either gear of vxland and the kernel's device, with the same MAC."""
    gear: Gear = request.param
    made = Lab(tmp_path_factory.mktemp("lab"), gear)
    try:
        up(made)
        yield made
    finally:
        made.down()


@pytest.mark.parametrize("seed", SEEDS)
def test_datagrams_have_the_same_result(lab: Lab, seed: int) -> None:
    """VXLAN and inner headers, lengths, checksums, tags, fragments and all outer ECN fields, byte for byte.

    With reserved bits, which vxland ignores, the result equals the kernel's for the datagram without them.
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
            assert len(reasons) == 1, difference(at, mutant, kernel, mine)
            found.update(reasons)
    assert found.keys() == {RESERVED, *DECAP}
    assert sum(map(bool, kernels)) > COUNT / 3


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_have_the_same_result(lab: Lab, seed: int) -> None:
    """The datagrams on the underlay, except addresses, source port and IP identification; and the frames back."""
    given = list(islice(device_frames(random.Random(seed)), COUNT))  # noqa: S311  (repeatable, not secret)
    kernels = encapsulated(lab.b, given, answers=False)
    ours = encapsulated(lab.a, given, answers=True)
    found: Counter[str] = Counter()
    for at, (frame, kernel, mine) in enumerate(zip(given, kernels, ours, strict=True)):
        assert all(each.checksum_good for each in kernel.datagrams + mine.datagrams)
        if mine != kernel:
            reasons = [name for name, explains in ENCAP.items() if explains(frame, kernel, mine)]
            assert len(reasons) == 1, difference(at, frame, kernel, mine)
            found.update(reasons)
    assert found.keys() == ENCAP.keys()
    assert sum(bool(each.datagrams) for each in kernels) > COUNT / 3


def test_every_decision_is_documented() -> None:
    """Each decision has a row of the same name."""
    text = Path(ROOT, "docs", "architecture.md").read_text(encoding="utf-8")
    assert [name for name in (RESERVED, *DECAP, *ENCAP) if f"\n| {name} |" not in text] == []


def difference(at: int, given: object, kernel: object, mine: object) -> str:
    """Return a line for a difference that no decision explains, or several do."""
    return f"{at}: {given}\nkernel: {kernel}\nvxland: {mine}"
