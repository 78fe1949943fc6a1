"""What copies of frames say of peers: whose MAC, whose dropped datagrams; and what forged ones cannot do."""

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
VTEP, STRANGER = ip_address("192.168.111.129"), ip_address("192.168.111.77")
PEER = Lease(ip_network("10.244.1.0/24"), Vtep(VTEP, MAC))
PEER6 = Lease(ip_network("fd00:10:244:11::/64"), Vtep(ip_address("fd00:111::129"), Mac(2)))
BASE = PEER.subnet.network_address
ANSWERED = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02" + MAC.value.to_bytes(6, "big") + BASE.packed


def ring() -> Ring:
    """What an examination captures to."""
    made = Ring(1 << 16, VXLAN_LEN + ANSWER_LEN)
    made.mode = 1
    return made


def keep(made: Ring, frame: bytes, outer: object = VTEP, verdict: int = 0, vni: int = 1) -> None:
    """A datagram that came, as forwarding/recorder.py notes it."""
    datagram = bytearray(VXLAN_LEN) + frame
    put_header(datagram, 0, vni)
    hi, lo = divmod(int(outer), 1 << 64)  # type: ignore[call-overload]
    made.start(len(datagram), DIRECTIONS.index("decap"), verdict, VXLAN_FIRST, hi, lo, 4000, 0)
    made.add(datagram, 0, len(datagram))
    made.finish()


def captured(made: Ring) -> list[bytes]:
    """All that is in it, of the one queue."""
    return [made.read(0)[0]]


def frame(mac: Mac = MAC) -> bytes:
    """A frame of this sender."""
    return bytes(6) + mac.value.to_bytes(6, "big") + b"\x08\x00" + bytes(46)


def test_an_answer() -> None:
    """Whoever answers through the tunnel has this MAC."""
    made = ring()
    keep(made, bytes(12) + ANSWERED + bytes(10))
    assert answers(captured(made)) == {(VTEP, BASE): MAC}


def test_a_dropped_answer_is_none() -> None:
    """What the node itself drops is nobody's answer."""
    made = ring()
    keep(made, bytes(12) + ANSWERED + bytes(10), STRANGER, Drop.UNKNOWN_VTEP)
    assert answers(captured(made)) == {}


@pytest.mark.parametrize("at", range(ANSWER_LEN - len(ANSWERED) + 1))
@pytest.mark.parametrize("filling", [b"\0", b"\x01", b"\xff"])
def test_what_looks_like_an_answer_elsewhere(at: int, filling: bytes) -> None:
    """One datagram of anybody with the octets of an answer in its midst ended the daemon while a peer was silent."""
    made = ring()
    keep(made, (filling * at + ANSWERED).ljust(ANSWER_LEN, filling), STRANGER, Drop.UNKNOWN_VTEP)
    keep(made, (filling * at + ANSWERED).ljust(ANSWER_LEN, filling))
    found = answers(captured(made))
    assert set(found.values()) <= {MAC}


def test_dropped_datagrams_are_told_by_peer() -> None:
    """The VTEP's address says whose they are, of either family; and what was forwarded is not among them."""
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
    """Its frames have its MAC; those of others, and drops that say nothing of the sender, are nobody's."""
    made = ring()
    keep(made, frame(Mac(9)), STRANGER, Drop.UNKNOWN_VTEP)
    keep(made, frame(), verdict=Drop.ECN_CE)
    assert refusals(captured(made), [PEER], 0) == {}
    keep(made, frame(), STRANGER, Drop.UNKNOWN_VTEP)
    assert refusals(captured(made), [PEER], 0) == {PEER: Refusal("unknown_vtep", STRANGER, 1)}


def test_what_is_long_past_is_no_evidence() -> None:
    """A ring keeps the last drops for ever."""
    made = ring()
    keep(made, frame(), verdict=Drop.WRONG_VNI)
    assert refusals(captured(made), [PEER], 1 << 62) == {}


def test_a_flood_is_looked_at_in_part() -> None:
    """So many records at most, each of them whole; fillers are passed over."""
    made = Ring(1 << 22, VXLAN_LEN + ANSWER_LEN)
    for _ in range(MAX_RECORDS):
        keep(made, frame(), STRANGER, Drop.WRONG_VNI)
    keep(made, frame(), verdict=Drop.WRONG_VNI)
    assert refusals(captured(made), [PEER], 0) == {}
    small = Ring(1024, VXLAN_LEN + ANSWER_LEN)
    for _ in range(50):
        keep(small, frame(), verdict=Drop.WRONG_VNI)
        assert PEER in refusals(captured(small), [PEER], 0)


def test_torn_octets() -> None:
    """Cut or damaged anywhere, they say less, and never raise."""
    made = ring()
    for _ in range(3):
        keep(made, frame(), verdict=Drop.WRONG_VNI)
    (octets,) = captured(made)
    for at in range(len(octets)):
        refusals([octets[:at], octets[at:]], [PEER], 0)
        for value in (0, 1, 255):
            refusals([octets[:at] + bytes([value]) + octets[at + 1 :]], [PEER], 0)
