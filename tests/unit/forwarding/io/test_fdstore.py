"""Descriptors that a process inherits; tests/netns has some that carry frames."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from vxland.forwarding.io import tap, udp
from vxland.forwarding.io.fdstore import Inherited

Opener = Callable[[], int]


@pytest.fixture
def opened() -> Opener:
    """Opens a descriptor, the other end of whose pipe is closed."""

    def make() -> int:
        left, right = os.pipe()
        os.close(left)
        return right

    return make


def is_open(fd: int) -> bool:
    """Whether the descriptor is in use."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "tap/flannel.1/0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"},
    ],
)
def test_variables_for_somebody_else(variables: dict[str, str]) -> None:
    """Variables for another process, or invalid ones, name no descriptors; child processes see none of them."""
    environ = {"HOME": "/", **variables}
    assert Inherited.from_environment(environ).of("flannel.1")("tap", 0) is None
    assert environ == {"HOME": "/"}


def test_take(opened: Opener) -> None:
    """A descriptor that fits goes to the caller, once; it is not new to the manager, and children do not inherit it."""
    fd = opened()
    os.set_inheritable(fd, True)
    inherited = Inherited([("tap/flannel.1/0", fd)])
    assert inherited.sort_out({"tap/flannel.1/0": lambda _: ""}) == set()
    take = inherited.of("flannel.1")
    assert (take("tap", 0), take("tap", 0), take("send", 0)) == (fd, None, None)
    assert inherited.new_ones({"tap/flannel.1/0": fd, "send/flannel.1/0": 99}) == {"send/flannel.1/0": 99}
    assert not os.get_inheritable(fd)
    inherited.close()
    assert is_open(fd)
    os.close(fd)


def test_what_does_not_fit_is_closed(opened: Opener) -> None:
    """Unexpected, doubled, refused by its check, and those whose first is gone: all named, for the manager."""
    names = ["tap/a/0", "tap/a/1", "tap/b/0", "send/a/0", "send/a/1", "", "send/a/1", "send/a/1"]
    fds = [opened() for _ in names]
    inherited = Inherited(list(zip(names, fds, strict=True)))
    expected = {name: lambda _: "" for name in ("tap/a/1", "send/a/0")}
    dropped = inherited.sort_out({**expected, "tap/a/0": lambda _: "it is too old", "send/a/1": lambda _: ""})
    assert dropped == {"tap/a/0", "tap/a/1", "tap/b/0", "send/a/1", ""}
    assert [name for name, fd in zip(names, fds, strict=True) if is_open(fd)] == ["send/a/0"]
    inherited.close()
    assert not is_open(fds[3])


def test_foreign_descriptors_are_the_callers(opened: Opener) -> None:
    """Names that the store does not make are left to the caller, several of one name too; else they are closed."""
    names = ["underlay", "tap/a/0", "underlay", "vxland.socket"]
    fds = [opened() for _ in names]
    inherited = Inherited(list(zip(names, fds, strict=True)))
    assert inherited.take_foreign() == [("underlay", fds[0]), ("underlay", fds[2]), ("vxland.socket", fds[3])]
    assert inherited.take_foreign() == []
    assert inherited.sort_out({"tap/a/0": lambda _: ""}) == set()
    assert Inherited([("underlay", fds[0])]).sort_out({}) == {"underlay"}
    assert [is_open(fd) for fd in fds] == [False, True, True, True]
    for fd in fds[1:]:
        os.close(fd)


def test_lent_descriptors_are_handed_out_again(opened: Opener) -> None:
    """A node that starts its planes once more needs the same sockets, which nobody passes twice."""
    fd = opened()
    inherited = Inherited([])
    inherited.lend({"receive/a/0": fd})
    take = inherited.of("a")
    first, second = take("receive", 0), take("receive", 0)
    assert first is not None
    assert second is not None
    assert len({fd, first, second}) == 3
    assert all(os.path.sameopenfile(fd, each) and not os.get_inheritable(each) for each in (first, second))
    assert inherited.new_ones({"receive/a/0": first, "tap/a/0": 99}) == {"tap/a/0": 99}  # the manager has them
    inherited.close()
    assert is_open(fd)
    for each in (fd, first, second):
        os.close(each)


def test_descriptors_that_a_program_in_between_closed() -> None:
    """LISTEN_FDS counts more than are open: each that is missing is named, and the start goes on."""
    closed = os.dup(0)
    os.close(closed)
    assert Inherited([("tap/a/0", closed)]).sort_out({}) == {"tap/a/0"}


def test_the_reason_why_none_are_here() -> None:
    """A program in between has started this process, so LISTEN_PID names another."""
    assert Inherited.from_environment({}).missed is None
    missed = Inherited.from_environment({"LISTEN_PID": "1", "LISTEN_FDS": "2"}).missed
    assert missed is not None
    assert missed.reason == f"LISTEN_PID is 1, and this process {os.getpid()}"
    assert "LISTEN_PID=$$ exec vxland" in missed.remedy


@pytest.mark.parametrize(
    ("count", "names", "reason"),
    [
        ("many", "", "LISTEN_FDS is many"),
        ("-1", "", "LISTEN_FDS is -1"),
        ("\u0663", "", "LISTEN_FDS is \\u0663"),
        ("9" * 5000, "underlay", f"LISTEN_FDS is {'9' * 20}"),
        ("2", "underlay", "LISTEN_FDS is 2, and LISTEN_FDNAMES has 1"),
        ("0", "underlay", "LISTEN_FDS is 0, and LISTEN_FDNAMES has 1"),
        ("9999", "", "LISTEN_FDS is 9999, and descriptor "),
        ("0", "", None),
    ],
)
def test_variables_that_contradict_each_other(count: str, names: str, reason: str | None) -> None:
    """A number beyond all integers ended the start with a traceback; one too high took descriptors of vxland's own."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    program = "import os, sys; from vxland.forwarding.io.fdstore import Inherited; "
    program += "os.environ['LISTEN_PID'] = str(os.getpid()); print(Inherited.from_environment(os.environ).missed)"
    done = subprocess.run(
        (sys.executable, "-c", program), env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("None" if reason is None else f"Missed(reason={reason!r}"[:-1])


def test_a_check_that_fails_is_a_reason(opened: Opener) -> None:
    """A pipe is no TAP queue: the kernel's refusal is the reason."""
    fd = opened()
    inherited = Inherited([("tap/a/0", fd)])
    assert inherited.sort_out({"tap/a/0": lambda fd: tap.mismatch(fd, "a", False)}) == {"tap/a/0"}
    assert not is_open(fd)


@pytest.mark.parametrize(
    ("kind", "host", "port", "reason"),
    [
        (socket.SOCK_DGRAM, "127.0.0.1", None, "it is bound to 127.0.0.2 port "),
        (socket.SOCK_DGRAM, "127.0.0.2", 1, "it is bound to 127.0.0.2 port "),
        (socket.SOCK_DGRAM, "::1", None, "it is a socket of another kind: AF_INET, SOCK_DGRAM"),
        (socket.SOCK_STREAM, "127.0.0.2", None, "it is a socket of another kind: AF_INET, SOCK_STREAM"),
    ],
)
def test_sockets_that_do_not_fit(kind: socket.SocketKind, host: str, port: int | None, reason: str) -> None:
    """Of another kind, address or port than the settings have."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.2", 0))
        assert udp.mismatch(sock.fileno(), ip_address(host), port).startswith(reason)
        assert is_open(sock.fileno())
