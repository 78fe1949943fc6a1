"""Whatever arrives, a verdict comes out: no exception, no other value, no byte touched that is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vxland.forwarding.pump
from tests.corpus import FRAMES, decapsulated, decisions
from tests.frames import HEADROOM, OUTER_B, from_outer, place, vxlan
from tests.steps import decap_datagram, encap_frame
from vxland.datapath.verdict import Drop

ENCAP_VERDICTS = {0, -1, Drop.INNER_MALFORMED, Drop.BUM, Drop.NO_VTEP}
DECAP_VERDICTS = {
    0,
    Drop.TOO_SHORT,
    Drop.I_FLAG_CLEAR,
    Drop.NEXT_PROTOCOL,
    Drop.WRONG_VNI,
    Drop.UNKNOWN_VTEP,
    Drop.INNER_MALFORMED,
    Drop.OWN_MAC,
    Drop.INNER_SOURCE_FOREIGN,
    Drop.ECN_CE,
}
VIRTIO = st.one_of(st.just(bytes(10)), st.binary(min_size=10, max_size=10))


@st.composite
def mutated(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """A valid one with some bytes changed and the end cut off or padded; or no valid one at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=120))
    raw = bytearray(draw(st.sampled_from(whole)))
    for at, value in draw(st.dictionaries(st.integers(0, 69), st.integers(0, 255), max_size=4)).items():
        raw[at % len(raw)] = value
    return bytes(raw[: draw(st.one_of(st.none(), st.integers(0, len(raw))))]) + bytes(draw(st.integers(0, 18)))


def outcome_of_encap(frame: bytes, virtio: bytes, tail: bytes) -> tuple[int, bytes]:
    """Verdict and buffer without the tail, which must not change unless an answer grew into it."""
    verdict, encap, placed = encap_frame(frame, virtio=virtio, after=tail)
    end = max(HEADROOM + len(frame), encap.answer_at + encap.answer_len)
    assert end <= HEADROOM + len(frame) + 8
    assert placed.buf[end:] == (place(frame, virtio, after=tail).buf)[end:]
    if encap.answer_len:
        assert encap.answer_at >= 10
    return verdict, bytes(placed.buf[: HEADROOM + len(frame)])


@settings(deadline=None, max_examples=200)
@given(mutated(FRAMES), VIRTIO)
def test_any_frame_gets_a_verdict(frame: bytes, virtio: bytes) -> None:
    """FORWARD, ANSWERED or a Drop of this direction, and the same whatever lies behind the frame."""
    outcomes = {outcome_of_encap(frame, virtio, tail) for tail in (bytes(40), b"\xff" * 40)}
    assert len(outcomes) == 1
    assert outcomes.pop()[0] in ENCAP_VERDICTS


@settings(deadline=None, max_examples=200)
@given(mutated([vxlan(frame) for frame in FRAMES]), st.integers(0, 3))
def test_any_datagram_gets_a_verdict(datagram: bytes, ecn: int) -> None:
    """FORWARD or a Drop of this direction; only an ECN field may change."""
    outcomes = set()
    for tail in (b"", bytes(40), b"\xff" * 40):
        verdict, _, placed = decap_datagram(datagram, from_outer(OUTER_B, ecn), after=tail)
        end, untouched = HEADROOM + len(datagram), place(datagram, after=tail).buf
        assert verdict in DECAP_VERDICTS
        assert placed.buf[end:] == tail
        assert placed.buf[: HEADROOM + 8] == untouched[: HEADROOM + 8]
        changed = [i - HEADROOM - 22 for i in range(HEADROOM + 8, end) if placed.buf[i] != untouched[i]]
        assert set(changed) <= {0, 1, 10, 11}  # of the IP header: what holds the ECN field, and IPv4's checksum
        outcomes.add((verdict, bytes(placed.buf[:end])))
    assert len(outcomes) == 1


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=64), st.integers(0, 3))
def test_noise_behind_a_good_header_gets_a_verdict(noise: bytes, ecn: int) -> None:
    """The VXLAN header is right and nothing else is."""
    assert decapsulated(vxlan(noise), ecn, OUTER_B)[0] in DECAP_VERDICTS


def test_the_corpus_reaches_every_verdict() -> None:
    """5000 damaged frames each way meet every reason there is, so that the digest below says something."""
    seen = Counter(verdict for verdict, _ in decisions(5000))
    assert set(seen) == ENCAP_VERDICTS | DECAP_VERDICTS
    assert min(seen.values()) >= 20


@pytest.mark.slow(reason="decides about the corpus in both gears, in processes of their own")
@pytest.mark.skipif(
    not any(Path(vxland.forwarding.pump.__file__).parent.glob("pump.*.so")),
    reason="the compiled gear is not built here",
)
def test_both_gears_decide_alike() -> None:
    """One source, two gears: the same verdicts, fields and bytes for all of the corpus, compared by digest."""
    printed = {}
    for pure in ("", "1"):
        run = subprocess.run(
            [sys.executable, "-m", "tests.corpus"],
            env={**os.environ, "VXLAND_PURE": pure},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        )
        gear, digest = run.stdout.split()
        printed[gear] = digest
    assert sorted(printed) == ["compiled", "interpreted"]
    assert printed["compiled"] == printed["interpreted"]
