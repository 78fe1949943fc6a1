"""Errors of the kernel: programs that it does not load, full maps, places without a program; and what it keeps."""

from __future__ import annotations

import errno

import pytest

from tests.netns.fastpath.loaded import TAP, Loaded
from tests.netns.fastpath.packets import MANY
from vxland.fastpath import programs
from vxland.fastpath.layout import PEERS, SUBNETS, pack_number
from vxland.fastpath.libbpf import BpfError, BpfObject, OpenedObject, Place, detach, library
from vxland.fastpath.programs import OBJECT, Programs, place

pytestmark = pytest.mark.netns

EXIT = bytes.fromhex("9500000000000000")
"""The instruction of BPF that ends a program."""


@pytest.mark.usefixtures("namespace")
def test_a_program_that_the_verifier_refuses() -> None:
    """The last line of its log says why."""
    lib = library()
    assert lib is not None
    image = OBJECT.read_bytes()
    assert EXIT in image
    with pytest.raises(BpfError, match="the kernel does not load the programs") as raised:
        BpfObject(OpenedObject(lib, image.replace(EXIT, bytes.fromhex("b700000000000000"))))
    assert raised.value.errno in {errno.EINVAL, errno.EACCES}
    assert raised.value.log


@pytest.mark.parametrize(
    ("name", "most", "key_len", "value_len"), [("peers", PEERS, 8, 16), ("sources", SUBNETS, 8, 4)]
)
def test_a_map_that_is_full(loaded: Loaded, name: str, most: int, key_len: int, value_len: int) -> None:
    """Entries that are there can still be replaced; entries() gives no more than the maps take."""
    held = loaded.programs._object.map(name)
    keys = [(32).to_bytes(4, "little") + i.to_bytes(key_len - 4, "big") for i in range(1 << 20, (1 << 20) + most + 1)]
    there = loaded.programs.fill()[name]
    try:
        for key in keys[: most - there]:
            held.put(key, bytes(value_len))
        with pytest.raises(BpfError, match=f"map {name}") as raised:
            held.put(keys[-1], bytes(value_len))
        assert raised.value.errno in {errno.E2BIG, errno.ENOSPC}
        held.put(keys[0], b"\1" * value_len)
    finally:
        for key in keys:
            held.delete(key)


def test_a_missing_entry_is_deleted_without_an_error(loaded: Loaded) -> None:
    """A table may change back before it was followed."""
    for name, key_len in (("peers", 8), ("sources", 8), ("inner_v6", 20)):
        loaded.programs._object.map(name).delete(bytes(key_len))


def test_counters_belong_to_a_vtep_since_it_got_its_lease(loaded: Loaded) -> None:
    """A slot that another VTEP had begins at 0, and what that one had stays in the sum."""
    traffic = loaded.programs._traffic
    loaded.follow(MANY)
    loaded.restart_counts()
    slot = loaded.programs._entries.slots[MANY[0].vtep]
    cpus = len(traffic.per_cpu(slot, 1)) // 4
    each = b"".join(value.to_bytes(8, "little") for value in (1, 10, 2, 20))
    for counted in (0, slot):
        traffic.put(pack_number(counted), each * cpus)
    assert loaded.counts() == ((cpus, 10 * cpus, 2 * cpus, 20 * cpus), {MANY[0].vtep: loaded.counts()[0]})
    loaded.follow(())
    loaded.follow(MANY)
    assert loaded.counts() == ((cpus, 10 * cpus, 2 * cpus, 20 * cpus), {})


def test_attaching_again_replaces(loaded: Loaded) -> None:
    """A new process attaches its programs to the places of the old one; then one removal is enough."""
    lib = library()
    assert lib is not None
    other = Programs(TAP)
    try:
        for each in (other, loaded.programs):
            each._tap = 0
            each._underlays = frozenset()
            each.attach(loaded.tap, {loaded.underlay})
    finally:
        other.close()
    for index, point in ((loaded.tap, "egress"), (loaded.underlay, "ingress")):
        assert detach(lib, place(TAP, index, point))
        assert not detach(lib, place(TAP, index, point))


def test_removal_leaves_other_devices_programs(loaded: Loaded) -> None:
    """And says whether there was anything."""
    lib = library()
    assert lib is not None
    for device in (TAP, "flannel.2"):
        loaded.programs._object.attach("vxland_decap", place(device, loaded.underlay, "ingress"))
    assert programs.remove(TAP, [loaded.underlay, loaded.tap, 1])
    assert not programs.remove(TAP, [loaded.underlay, loaded.tap, 1])
    assert programs.remove("flannel.2", [loaded.underlay])


def test_a_device_that_is_gone(loaded: Loaded) -> None:
    """It is reported when something is attached, and not when something is removed."""
    with pytest.raises(BpfError, match="takes no tc program"):
        loaded.programs._object.attach("vxland_decap", Place(999_999, "ingress", 1, 1))
    assert not programs.remove(TAP, [999_999])
