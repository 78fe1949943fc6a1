"""Evidence in captured frames: MACs and dropped datagrams of peers; forged frames have no effect."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from vxland.datapath.verdict import Drop
from vxland.forwarding.io.ring import Ring
from vxland.model.lease import Lease, Mac, Vtep
from vxland.probes.captured import MAX_RECORDS, Refusal, answers, refusals
from vxland.wire.record import DIRECTIONS, VXLAN_FIRST
from vxland.wire.vxlan import HDR_LEN as VXLAN_LEN
from vxland.wire.vxlan import put_header
from vxland.wire.whohas import ANSWER_LEN

MAC = Mac.parse("3a:87:cf:81:6a:ce")
VTEP, UNKNOWN = ip_address("192.168.111.129"), ip_address("192.168.111.77")
PEER = Lease(ip_network("10.244.1.0/24"), Vtep(VTEP, MAC))
PEER6 = Lease(ip_network("fd00:10:244:11::/64"), Vtep(ip_address("fd00:111::129"), Mac(2)))
BASE = PEER.subnet.network_address
ANSWERED = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02" + MAC.value.to_bytes(6, "big") + BASE.packed


def ring() -> Ring:
    """Make a ring that captures."""
    made = Ring(1 << 16, VXLAN_LEN + ANSWER_LEN)
    made.mode = 1
    return made


def keep(made: Ring, frame: bytes, outer: object = VTEP, verdict: int = 0, vni: int = 1) -> None:
    """Record a received datagram as forwarding/recorder.py does."""
    datagram = bytearray(VXLAN_LEN) + frame
    put_header(datagram, 0, vni)
    hi, lo = divmod(int(outer), 1 << 64)  # type: ignore[call-overload]  # an address as a number
    made.start(len(datagram), DIRECTIONS.index("decap"), verdict, VXLAN_FIRST, hi, lo, 4000, 0)
    made.add(datagram, 0, len(datagram))
    made.finish()


def captured(made: Ring) -> list[bytes]:
    """Return everything in the ring, as one queue."""
    return [made.read(0)[0]]


def frame(mac: Mac = MAC) -> bytes:
    """Make a frame of this sender."""
    return bytes(6) + mac.value.to_bytes(6, "big") + b"\x08\x00" + bytes(46)


def test_an_answer() -> None:
    """The sender of the answer has this MAC."""
    made = ring()
    keep(made, bytes(12) + ANSWERED + bytes(10))
    assert answers(captured(made)) == {(VTEP, BASE): MAC}


def test_a_dropped_answer_is_none() -> None:
    """An answer that the node dropped does not count."""
    made = ring()
    keep(made, bytes(12) + ANSWERED + bytes(10), UNKNOWN, Drop.UNKNOWN_VTEP)
    assert answers(captured(made)) == {}


@pytest.mark.parametrize("at", range(ANSWER_LEN - len(ANSWERED) + 1))
@pytest.mark.parametrize("filling", [b"\0", b"\x01", b"\xff"])
def test_an_answer_at_another_offset(at: int, filling: bytes) -> None:
    """One forged datagram with an answer's bytes inside ended the daemon while a peer was silent."""
    made = ring()
    keep(made, (filling * at + ANSWERED).ljust(ANSWER_LEN, filling), UNKNOWN, Drop.UNKNOWN_VTEP)
    keep(made, (filling * at + ANSWERED).ljust(ANSWER_LEN, filling))
    found = answers(captured(made))
    assert set(found.values()) <= {MAC}


def test_dropped_datagrams_by_peer() -> None:
    """The VTEP's address identifies the peer, in both IP versions; forwarded datagrams do not count."""
    made = ring()
    keep(made, frame())
    assert refusals(captured(made), [PEER, PEER6], 0) == {}
    keep(made, frame(), verdict=Drop.WRONG_VNI, vni=7)
    keep(made, frame(), PEER6.vtep.address, Drop.OWN_MAC)
    assert refusals(captured(made), [PEER, PEER6], 0) == {
        PEER: Refusal("wrong_vni", VTEP, 7),
        PEER6: Refusal("own_mac", PEER6.vtep.address, 1),
    }


def test_a_peer_behind_another_address() -> None:
    """Its frames have its MAC; other MACs, and drops that do not concern the sender, do not count."""
    made = ring()
    keep(made, frame(Mac(9)), UNKNOWN, Drop.UNKNOWN_VTEP)
    keep(made, frame(), verdict=Drop.ECN_CE)
    assert refusals(captured(made), [PEER], 0) == {}
    keep(made, frame(), UNKNOWN, Drop.UNKNOWN_VTEP)
    assert refusals(captured(made), [PEER], 0) == {PEER: Refusal("unknown_vtep", UNKNOWN, 1)}


def test_an_old_drop_is_no_evidence() -> None:
    """A ring keeps the last drops forever."""
    made = ring()
    keep(made, frame(), verdict=Drop.WRONG_VNI)
    assert refusals(captured(made), [PEER], 1 << 62) == {}


def test_a_flood_is_read_in_part() -> None:
    """At most MAX_RECORDS are read, each whole; fillers are skipped."""
    made = Ring(1 << 22, VXLAN_LEN + ANSWER_LEN)
    for _ in range(MAX_RECORDS):
        keep(made, frame(), UNKNOWN, Drop.WRONG_VNI)
    keep(made, frame(), verdict=Drop.WRONG_VNI)
    assert refusals(captured(made), [PEER], 0) == {}
    small = Ring(1024, VXLAN_LEN + ANSWER_LEN)
    for _ in range(50):
        keep(small, frame(), verdict=Drop.WRONG_VNI)
        assert PEER in refusals(captured(small), [PEER], 0)


def test_damaged_records() -> None:
    """Records cut or damaged at any offset give less evidence, and never raise."""
    made = ring()
    for _ in range(3):
        keep(made, frame(), verdict=Drop.WRONG_VNI)
    (records,) = captured(made)
    for at in range(len(records)):
        refusals([records[:at], records[at:]], [PEER], 0)
        for value in (0, 1, 255):
            refusals([records[:at] + bytes([value]) + records[at + 1 :]], [PEER], 0)
