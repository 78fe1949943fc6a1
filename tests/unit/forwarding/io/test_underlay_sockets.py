"""Sockets that the program which starts vxland passes: those that fit, and the refusal of every other descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from vxland.forwarding.io.fdstore import Missed
from vxland.forwarding.io.underlay_sockets import NAME, UnderlayPort, sort_sockets
from vxland.model.errors import InvalidConfigError

HERE, OTHER = "127.0.0.2", "127.0.0.3"
UNIT = "in the socket unit"

Make = Callable[..., socket.socket]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes bound sockets."""
    with ExitStack() as stack:

        def opened(
            host: str = HERE, port: int = 0, kind: int = socket.SOCK_DGRAM, *, proto: int = 0, shared: bool = True
        ) -> socket.socket:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, kind, proto))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not shared)
            if host:
                sock.bind((host, port))
            return sock

        yield opened


def vxlan_port(receiver: socket.socket) -> UnderlayPort:
    """The port of `receiver`, as the settings would have it."""
    host, number = receiver.getsockname()[:2]
    return UnderlayPort(ip_address(host), number)


def refusals(
    passed: list[tuple[str, int]], port: UnderlayPort, missed: Missed | None = None
) -> list[tuple[object, str]]:
    """The values and remedies of a refusal."""
    with pytest.raises(InvalidConfigError) as caught:
        sort_sockets(passed, [port], missed)
    assert {problem.key for problem in caught.value.problems} == {"underlay.sockets"}
    return [(problem.value, problem.remedy) for problem in caught.value.problems]


def test_the_port_decides(make: Make) -> None:
    """Sockets on the VXLAN port receive, in their order; the others send."""
    first, sender, another = make(), make(), make()
    second = make(port=first.getsockname()[1])
    fds = [each.fileno() for each in (sender, first, another, second)]
    (found,) = sort_sockets([(NAME, fd) for fd in fds], [vxlan_port(first)], None)
    assert (found.receivers, found.senders) == ([fds[1], fds[3]], [fds[0], fds[2]])
    for fd in fds:
        os.fstat(fd)  # they stay open


def test_each_family_has_its_own(make: Make) -> None:
    """In a dual-stack flannel network, with one name for all."""
    receivers = make(), make("::1")
    number = receivers[0].getsockname()[1]
    ports = [UnderlayPort(ip_address(HERE), number), vxlan_port(receivers[1])]
    senders = make(), make("::1")
    passed = [(NAME, each.fileno()) for each in (*senders, *receivers)]
    found = sort_sockets(passed, ports, None)
    assert [each.receivers for each in found] == [[each.fileno()] for each in receivers]
    assert [each.senders for each in found] == [[each.fileno()] for each in senders]


def test_descriptors_that_are_refused(make: Make) -> None:
    """Each by name and number, with what it is, what is needed, and how to make it; all at once."""
    receiver, sender = make(), make()
    port = vxlan_port(receiver)
    line = f"ListenDatagram={HERE}:{port.number} {UNIT}"
    tcp, v6, elsewhere, unbound = make(kind=socket.SOCK_STREAM), make("::1"), make(OTHER), make("")
    connected, unnamed, lite = make(), make(), make(proto=136)
    connected.connect((OTHER, 9))
    unix, peer = socket.socketpair()
    with unix, peer, open("/dev/null", "rb") as file:  # noqa: PTH123  (a descriptor)
        good = [receiver.fileno(), sender.fileno()]
        bad = [*(each.fileno() for each in (tcp, v6, elsewhere, unbound, connected, unix)), file.fileno()]
        passed = [(NAME, fd) for fd in (*good, *bad, lite.fileno())]
        found = refusals([*passed, ("vxland.socket", unnamed.fileno()), ("", unnamed.fileno())], port)
    numbers = [each.getsockname()[1] for each in (tcp, v6, elsewhere, connected, lite, unnamed)]
    wanted: list[tuple[str, str, str]] = [
        (NAME, f"a TCP socket on {HERE} port {numbers[0]}", f"pass a UDP socket instead: {line} makes one"),
        (
            NAME,
            f"an IPv6 UDP socket on ::1 port {numbers[1]}",
            f"pass an IPv4 socket, since the VTEP address is {HERE}",
        ),
        (NAME, f"a UDP socket on {OTHER} port {numbers[2]}", f"bind it to {HERE}, this node's VTEP address"),
        (NAME, "a UDP socket not bound to a port", f"bind it before: {line} makes one that is"),
        (NAME, f"a UDP socket on {HERE} port {numbers[3]}, connected to {OTHER} port 9", "pass it unconnected"),
        (NAME, "a UNIX socket", f"pass a UDP socket instead: {line}"),
        (NAME, "no socket", f"pass UDP sockets alone under this name: {line}"),
        (NAME, f"a type 2, protocol 136 socket on {HERE} port {numbers[4]}", f"pass a UDP socket instead: {line}"),
        ("vxland.socket", f"a UDP socket on {HERE} port {numbers[5]}", "FileDescriptorName=underlay in the socket"),
        ("no name", f"a UDP socket on {HERE} port {numbers[5]}", "pass it under the name underlay"),
    ]
    for (value, remedy), (name, what, needed) in zip(found, wanted, strict=True):
        head, _, tail = str(value).partition(" (descriptor ")
        assert (head, tail.partition("), ")[2]) == (name, what)
        assert needed in remedy


def test_missing_sockets(make: Make) -> None:
    """Of either kind; or the reason why none can be there."""
    sender = make()
    port = UnderlayPort(ip_address(HERE), 8472)
    (receiving,) = refusals([(NAME, sender.fileno())], port)
    assert receiving[0] is None
    assert receiving[1].startswith("pass a UDP socket bound to 127.0.0.2 port 8472 (overlay.port) under the name")
    (sending,) = refusals([(NAME, sender.fileno())], vxlan_port(sender))
    assert "ListenDatagram=127.0.0.2:61001" in sending[1]
    assert len(refusals([], port)) == 2
    assert refusals([], port, Missed("LISTEN_PID is 7, and this process 8", "set it")) == [
        ("LISTEN_PID is 7, and this process 8", "set it")
    ]


def test_a_socket_that_is_passed_twice(make: Make) -> None:
    """Two workers read from it, and packets of a flow changed their order."""
    receiver, sender = make(), make()
    with socket.socket(fileno=os.dup(receiver.fileno())) as again:
        passed = [(NAME, each.fileno()) for each in (receiver, sender, again)]
        ((value, remedy),) = refusals(passed, vxlan_port(receiver))
        assert str(value).startswith(f"{NAME} (descriptor {again.fileno()}), a UDP socket on {HERE}")
        assert remedy.startswith(f"pass each socket once: this is descriptor {receiver.fileno()} again")


def test_several_receivers_share_their_port(make: Make) -> None:
    """With SO_REUSEADDR alone, as a socket unit sets it, two could be bound, and one of them gets all datagrams."""
    receiver, sender = make(shared=False), make()
    second = make(port=receiver.getsockname()[1], shared=False)
    passed = [(NAME, each.fileno()) for each in (receiver, second, sender)]
    ((value, remedy),) = refusals(passed, vxlan_port(receiver))
    assert value == f"2 bound to {HERE} port {receiver.getsockname()[1]}"
    assert "ReusePort=yes" in remedy


def test_the_number_is_bounded(make: Make) -> None:
    """As those of workers and source ports are."""
    receivers = [make()]
    receivers += [make(port=receivers[0].getsockname()[1]) for _ in range(16)]
    senders = [make() for _ in range(65)]
    passed = [(NAME, each.fileno()) for each in (*receivers, *senders)]
    assert [remedy for _, remedy in refusals(passed, vxlan_port(receivers[0]))] == [
        "pass at most 16",
        "pass at most 64",
    ]


def test_a_hostile_name_is_shown_on_one_line(make: Make) -> None:
    """And cut."""
    receiver, sender, other = make(), make(), make()
    passed = [(NAME, receiver.fileno()), (NAME, sender.fileno()), ("\x1b[2J\n" + "x" * 300, other.fileno())]
    ((value, _),) = refusals(passed, vxlan_port(receiver))
    assert str(value).startswith("\\x1b[2J\\n" + "x" * 40)
    assert len(str(value)) < 200
