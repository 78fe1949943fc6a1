"""The filter of sources, in this machine's kernel, on the loopback device."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from vxland.kernel.source_bits import attach, program

INSTRUCTION_LEN = 8


@contextmanager
def pair(source: str, target: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender with this address, and a receiver."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with (
        closing(socket.socket(family, socket.SOCK_DGRAM)) as sender,
        closing(socket.socket(family, socket.SOCK_DGRAM)) as receiver,
    ):
        sender.bind((source, 0))
        receiver.bind((target, 0))
        receiver.setblocking(False)
        yield sender, receiver


@pytest.mark.parametrize(
    ("source", "lengths", "passes"),
    [
        ("127.1.2.0", [24], True),
        ("127.1.2.3", [24], False),
        ("127.1.2.128", [24], False),
        ("127.1.2.128", [24, 25], True),
        ("127.1.2.64", [25, 26], True),
        ("127.1.0.0", [16], True),
        ("127.1.2.0", [16], False),
        ("127.1.2.3", [32], True),
        ("127.1.2.0", [], False),
        ("::1", [64], False),
        ("::1", [64, 127], False),
        ("::1", [64, 128], True),
    ],
)
def test_sources(source: str, lengths: list[int], passes: bool) -> None:
    """Only the first address of a subnet of one of these lengths passes; loopback delivers within the send."""
    with pair(source, "::1" if ":" in source else "127.0.0.1") as (sender, receiver):
        attach(receiver, 6 if ":" in source else 4, lengths)
        sender.sendto(b"x", receiver.getsockname())
        if passes:
            assert receiver.recv(1) == b"x"
        else:
            with pytest.raises(BlockingIOError):
                receiver.recv(1)


def test_a_syn_gets_no_answer() -> None:
    """A connection from elsewhere is not even refused; that of a node is accepted."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        attach(listener, 4, [24])
        address = listener.getsockname()
        with closing(socket.socket()) as foreign, closing(socket.socket()) as known:
            foreign.bind(("127.1.2.3", 0))
            known.bind(("127.1.2.0", 0))
            foreign.setblocking(False)
            with pytest.raises(BlockingIOError):
                foreign.connect(address)
            known.connect(address)
            listener.accept()[0].close()
            assert foreign.connect_ex(address) == errno.EALREADY


@pytest.mark.parametrize("version", [4, 6])
def test_all_lengths_fit(version: int) -> None:
    """The kernel takes 4,096 instructions at most (BPF_MAXINSNS)."""
    bits = 32 if version == 4 else 128
    assert len(program(version, range(bits + 1))) // INSTRUCTION_LEN <= 4096
