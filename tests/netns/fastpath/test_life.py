"""Life: the programs carry on when the daemon hangs or is gone, and let go when that lasts."""

from __future__ import annotations

import socket
import time
from struct import unpack_from

import pytest

from tests.frames import MAC_B, OUTER_A, OUTER_C, POD_A, POD_B, PORT, UDP, frame_of, ipv4
from tests.netns.fastpath.loaded import TAP, Loaded
from tests.netns.fastpath.packets import MANY, arriving
from tests.stream import TCP4, numbered, reverse
from vxland.fastpath.choice import HUNG_NS
from vxland.fastpath.layout import ATTENDED_AT
from vxland.fastpath.programs import Programs

pytestmark = pytest.mark.netns

HOUR = 3_600_000_000_000
HUNG, UNATTENDED = 10 * HOUR, 100 * HOUR
OUT, IN = TCP4.frame(b"x"), arriving(reverse(TCP4).frame(b"x"))
FRAGMENT = frame_of(ipv4(POD_A, POD_B, UDP, bytes(64), fragment=0x2000), MAC_B)


@pytest.fixture(autouse=True)
def _ready(loaded: Loaded) -> None:
    loaded.follow(MANY)
    loaded.set(superframes=False, hung_ns=HUNG, unattended_ns=UNATTENDED)
    loaded.forget()


def receiver(address: str = OUTER_A, port: int = PORT) -> socket.socket:
    """Return a socket at this address."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((address, port))
    return opened


def carried(loaded: Loaded) -> tuple[bool, bool]:
    """Return for each direction whether a packet is carried."""
    return loaded.encap(OUT).carried, loaded.decap(IN).carried


def test_a_daemon_that_reads_gets_what_is_its_own(loaded: Loaded) -> None:
    """The program finds its socket at the address that peers send to."""
    with receiver():
        loaded.forget(carry_after_ns=HOUR)
        assert carried(loaded) == (False, False)


def test_the_sockets_of_several_workers_are_found(loaded: Loaded) -> None:
    """They share the port; the last one that closes leaves the programs alone."""
    loaded.forget(carry_after_ns=HOUR)
    with receiver(), receiver(), receiver():
        assert carried(loaded) == (False, False)
        loaded.forget(carry_after_ns=HOUR)
    assert carried(loaded) == (True, True)


@pytest.mark.parametrize("attended_ns", [0, 9 * HOUR, 99 * HOUR])
def test_without_a_socket_all_is_carried(loaded: Loaded, attended_ns: int) -> None:
    """A daemon that was killed gets nothing, whatever its flows: what was in its queues is lost."""
    loaded.forget(attended_ns=attended_ns, carry_after_ns=HOUR)
    assert not loaded.encap(FRAGMENT).carried
    assert carried(loaded) == (True, True)


@pytest.mark.parametrize(("address", "port"), [("127.0.0.1", PORT), (OUTER_A, PORT + 1)])
def test_another_programs_socket_is_no_daemon(loaded: Loaded, address: str, port: int) -> None:
    """Only one that gets the datagrams."""
    with receiver(address, port):
        loaded.forget(carry_after_ns=HOUR)
        assert carried(loaded) == (True, True)


def test_a_daemon_that_hangs_gets_nothing(loaded: Loaded) -> None:
    """It has its socket, and gives no sign of life."""
    with receiver():
        loaded.forget(attended_ns=9 * HOUR, carry_after_ns=HOUR)
        assert carried(loaded) == (False, False)
        loaded.forget(attended_ns=11 * HOUR, carry_after_ns=HOUR)
        assert carried(loaded) == (True, True)


@pytest.mark.parametrize("reads", [True, False])
def test_unattended_programs_let_go(loaded: Loaded, reads: bool) -> None:
    """Nobody removes the leases that have ended."""
    with receiver(OUTER_A if reads else "127.0.0.1"):
        loaded.forget(attended_ns=99 * HOUR)
        assert carried(loaded) == (True, True)
        loaded.forget(attended_ns=101 * HOUR)
        assert carried(loaded) == (False, False)
        assert not loaded.decap(arriving(reverse(TCP4).superframe(numbered(3000))), 1398).carried


def test_what_only_the_daemon_can_decide_is_left_without_it(loaded: Loaded) -> None:
    """As docs/fast-path.md says."""
    loaded.forget(attended_ns=50 * HOUR)
    assert not loaded.encap(FRAGMENT).carried
    assert not loaded.encap(TCP4.frame(numbered(2000))).carried
    assert not loaded.decap(arriving(reverse(TCP4).frame(b"x"), OUTER_C, header=bytes(8))).carried


@pytest.mark.usefixtures("loaded")
def test_programs_that_are_closed_do_not_wait_for_the_daemon() -> None:
    """A process that ends says so: from then on they carry all that they can, however long its sockets stay open."""
    ended = Programs(TAP)
    memory = ended._object.map(".data.settings").memory()
    ended.beat()
    attended = unpack_from("=Q", memory, ATTENDED_AT)[0]
    ended.close()
    assert unpack_from("=Q", memory, ATTENDED_AT)[0] < attended
    assert time.monotonic_ns() - unpack_from("=Q", memory, ATTENDED_AT)[0] > HUNG_NS
    memory.close()
