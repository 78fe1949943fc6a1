"""The compiled objects belong to their sources, and have what the loader expects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.btf import sections
from vxland.fastpath import kernel_drops
from vxland.fastpath.entries import MAPS
from vxland.fastpath.programs import OBJECT


@pytest.mark.parametrize("path", [OBJECT, kernel_drops.OBJECT], ids=lambda path: path.stem)
def test_the_object_is_compiled_of_this_source(path: Path) -> None:
    """`make programs` was forgotten, or only one of the two files was committed."""
    digest = sections(path.read_bytes())[".vxland.source"].rstrip(b"\0").decode()
    assert digest == hashlib.sha256(path.with_suffix(".c").read_bytes()).hexdigest()


def test_its_licence_is_ours() -> None:
    """The kernel then refuses helpers that are the GPL's, which none of the programs may need."""
    assert sections(OBJECT.read_bytes())["license"] == b"Apache-2.0\0"


def test_it_needs_no_types_of_the_running_kernel() -> None:
    """No part of .BTF.ext asks libbpf for relocations by the kernel's BTF: its third table is empty."""
    header = sections(OBJECT.read_bytes())[".BTF.ext"]
    header_len = int.from_bytes(header[4:8], "little")
    core_relo_len = int.from_bytes(header[28:32], "little") if header_len >= 32 else 0
    assert core_relo_len == 0


def test_it_has_the_programs_and_maps() -> None:
    """By the names that the loader looks up."""
    found = sections(OBJECT.read_bytes())
    strings = found[".strtab"].split(b"\0")
    for name in (*MAPS, "traffic", "tap", "vxland_encap", "vxland_decap"):
        assert name.encode() in strings
    assert ".data.settings" in found
    assert ".bss" in found
