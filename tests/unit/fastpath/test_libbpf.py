"""Errors before the kernel is asked: no libbpf, an old one, an object that is none."""

from __future__ import annotations

import errno

import pytest

from vxland.fastpath import libbpf, programs
from vxland.fastpath.libbpf import BpfError, OpenedObject, library
from vxland.fastpath.programs import Programs, place


def test_without_libbpf_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has no number: no call has failed."""
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-is-not-here.so.1")
    assert library() is None
    with pytest.raises(BpfError, match="libbpf is not installed") as raised:
        Programs("flannel.1")
    assert raised.value.errno == 0
    assert not programs.remove("flannel.1", [1])


def test_a_library_without_the_calls_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libbpf 0.5 is, which has no bpf_tc_attach()."""
    monkeypatch.setattr(libbpf, "LIBRARY", "libc.so.6")
    assert library() is None


def test_an_object_that_is_none() -> None:
    """The library refuses it, without a word on stderr."""
    lib = library()
    if lib is None:
        pytest.skip("libbpf is not installed")
    with pytest.raises(BpfError, match="the programs cannot be read") as raised:
        OpenedObject(lib, b"\x7fELF" + bytes(100))
    assert raised.value.errno != 0


def test_an_error_says_what_and_why() -> None:
    """With the last line of the verifier's log, if there is one."""
    assert str(BpfError("map peers", errno.E2BIG)) == "map peers: Argument list too long"
    assert str(BpfError("load", errno.EACCES, "R1 is no pointer")) == "load: Permission denied (R1 is no pointer)"


def test_devices_are_distinguished_by_their_names() -> None:
    """Two overlay devices may have programs on one underlay. A handle is never 0, which asks for any."""
    places = [place(device, 3, "ingress") for device in ("flannel.1", "flannel.2", "", "flannel-v6.1")]
    assert len({each.handle for each in places}) == len(places)
    assert all(0 < each.handle < 1 << 31 for each in places)
    assert place("flannel.1", 3, "ingress") == place("flannel.1", 3, "ingress")
