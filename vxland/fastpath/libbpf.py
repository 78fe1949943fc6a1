"""The calls of libbpf that load programs, fill their maps and attach them to interfaces (bpf/libbpf.h, bpf/bpf.h).

libbpf is a package of every distribution (Debian: libbpf1, Alpine: libbpf) and is loaded when it is first needed. A
kernel object lives as long as something uses it: a program while it is attached or this process has it open, a map
while a program uses it. So what is attached stays when the process ends.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from array import array
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Final

LIBRARY: Final = "libbpf.so.1"
LOG_LEN: Final = 1 << 16
"""Bytes of the verifier's log that are kept."""

UNREADABLE: Final = "the programs cannot be read"

_ANY, _NO_FLAGS = 0, 0
_TC_REPLACE: Final = 1  # BPF_TC_F_REPLACE
_BTF_ENUM: Final = 6  # BTF_KIND_ENUM
_POINTS: Final = {"ingress": 1, "egress": 2}  # enum bpf_tc_attach_point


class BpfError(Exception):
    """The kernel or libbpf refuses `what`: with `errno` (0: without one), and the last line of the verifier's `log`."""

    def __init__(self, what: str, code: int, log: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(code)}{f' ({log})' if log else ''}")
        self.what = what
        self.errno = code
        self.log = log


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of libbpf 1.0."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_uint64),  # a bool, and what aligns the pointer behind it
        ("pin_root_path", c_char_p),
        ("unused", c_uint64),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_char_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint64),
    )


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("attach_point", c_int), ("parent", c_uint32))


class _Filter(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


_CALLS: Final = {
    "libbpf_set_print": (c_void_p, c_void_p),
    "libbpf_major_version": (c_uint32,),
    "libbpf_minor_version": (c_uint32,),
    "libbpf_num_possible_cpus": (c_int,),
    "bpf_object__open_mem": (c_void_p, c_char_p, c_size_t, POINTER(_OpenOptions)),
    "bpf_object__load": (c_int, c_void_p),
    "bpf_object__close": (None, c_void_p),
    "bpf_object__find_program_by_name": (c_void_p, c_void_p, c_char_p),
    "bpf_object__find_map_by_name": (c_void_p, c_void_p, c_char_p),
    "bpf_program__fd": (c_int, c_void_p),
    "bpf_map__fd": (c_int, c_void_p),
    "bpf_map__value_size": (c_uint32, c_void_p),
    "bpf_map_update_elem": (c_int, c_int, c_char_p, c_char_p, c_uint64),
    "bpf_map_delete_elem": (c_int, c_int, c_char_p),
    "bpf_map_lookup_elem": (c_int, c_int, c_char_p, c_void_p),
    "bpf_map_lookup_batch": (c_int, c_int, *3 * (POINTER(c_uint32),), c_void_p, POINTER(c_uint32), c_void_p),
    "bpf_map_lookup_and_delete_elem": (c_int, c_int, c_char_p, c_void_p),
    "bpf_program__attach": (c_void_p, c_void_p),
    "bpf_link__destroy": (c_int, c_void_p),
    "btf__load_vmlinux_btf": (c_void_p,),
    "btf__find_by_name_kind": (c_int, c_void_p, c_char_p, c_uint32),
    "btf__type_by_id": (POINTER(c_uint32), c_void_p, c_uint32),
    "btf__name_by_offset": (c_char_p, c_void_p, c_uint32),
    "btf__free": (None, c_void_p),
    "bpf_tc_hook_create": (c_int, POINTER(_Hook)),
    "bpf_tc_attach": (c_int, POINTER(_Hook), POINTER(_Filter)),
    "bpf_tc_detach": (c_int, POINTER(_Hook), POINTER(_Filter)),
    "bpf_tc_query": (c_int, POINTER(_Hook), POINTER(_Filter)),
    "bpf_prog_test_run_opts": (c_int, c_int, POINTER(_TestRun)),
}


def library() -> ctypes.CDLL | None:
    """Return libbpf; None if it is not installed, or too old."""
    try:
        found = ctypes.CDLL(LIBRARY, use_errno=True)
        for name, (result, *arguments) in _CALLS.items():
            call = getattr(found, name)
            call.restype, call.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    found.libbpf_set_print(None)  # it would write to stderr; errors are reported by errno and log
    return found


def _checked(result: int, what: str) -> int:
    """Return the result of a call; BpfError for a negative errno."""
    if result < 0:
        raise BpfError(what, -result)
    return result


class Map:
    """A map of a loaded object, by its descriptor."""

    def __init__(self, lib: ctypes.CDLL, name: str, descriptor: int, value_len: int) -> None:
        self._lib = lib
        self._name = name
        self._fd = descriptor
        self._value_len = value_len

    def put(self, key: bytes, value: bytes) -> None:
        """Add or replace an entry. BpfError, also if the map is full."""
        _checked(self._lib.bpf_map_update_elem(self._fd, key, value, _ANY), f"map {self._name}")

    def delete(self, key: bytes) -> None:
        """Delete an entry; no effect if there is none."""
        result = self._lib.bpf_map_delete_elem(self._fd, key)
        if result != -errno.ENOENT:
            _checked(result, f"map {self._name}")

    def per_cpu(self, first: int, count: int) -> array[int]:
        """Return `count` entries of a per-CPU array of 64-bit numbers: those of each possible CPU in turn."""
        cpus = _checked(self._lib.libbpf_num_possible_cpus(), "CPUs")
        values = ctypes.create_string_buffer(count * cpus * self._value_len)
        before = c_uint32(first - 1) if first else None
        keys, last, found = (c_uint32 * count)(), c_uint32(), c_uint32(count)
        result = self._lib.bpf_map_lookup_batch(self._fd, before, last, keys, values, found, None)
        if result != -errno.ENOENT:  # the end of the array has been reached
            _checked(result, f"map {self._name}")
        return array("Q", values.raw)

    def pop(self) -> bytes | None:
        """Return the oldest value of a queue and delete it; None if the queue is empty. BpfError."""
        value = ctypes.create_string_buffer(self._value_len)
        result = self._lib.bpf_map_lookup_and_delete_elem(self._fd, None, value)
        if result == -errno.ENOENT:
            return None
        _checked(result, f"map {self._name}")
        return value.raw

    def memory(self) -> mmap.mmap:
        """Return the value of a map of global variables as memory that is shared with the programs."""
        page = mmap.PAGESIZE
        return mmap.mmap(self._fd, (self._value_len + page - 1) // page * page, mmap.MAP_SHARED)


@dataclass(frozen=True, slots=True)
class Place:
    """A place on an interface: `point` is ingress or egress; handle and priority distinguish filters there."""

    ifindex: int
    point: str
    handle: int
    priority: int


def opens_with_memfd(lib: ctypes.CDLL) -> bool:
    """Return whether this libbpf creates a file in memory for each map of an object that it opens: from 1.4 on."""
    return (lib.libbpf_major_version(), lib.libbpf_minor_version()) >= (1, 4)


class OpenedObject:
    """An object file that libbpf has read, and that can be loaded once. BpfError."""

    def __init__(self, lib: ctypes.CDLL, image: bytes) -> None:
        self.lib = lib
        self.log = ctypes.create_string_buffer(LOG_LEN)
        options = _OpenOptions(
            sz=ctypes.sizeof(_OpenOptions),
            object_name=b"vxland",
            kernel_log_buf=ctypes.addressof(self.log),
            kernel_log_size=LOG_LEN,
        )
        self._image = image  # libbpf reads it until it is loaded
        self.handle = lib.bpf_object__open_mem(image, len(image), ctypes.byref(options))
        if not self.handle:
            raise BpfError(UNREADABLE, ctypes.get_errno())


class BpfObject:
    """Loaded programs and their maps. BpfError if the kernel refuses them. Close it."""

    def __init__(self, opened: OpenedObject) -> None:
        self._lib = lib = opened.lib
        self._opened = opened
        self._object = opened.handle
        result = lib.bpf_object__load(self._object)
        if result < 0:
            lines = opened.log.value.decode("utf-8", "replace").splitlines()
            self.close()
            told = next((line for line in reversed(lines) if line and not line.startswith("processed")), "")
            raise BpfError("the kernel does not load the programs", -result, told[:200])

    def close(self) -> None:
        """Close the descriptors; attached programs and their maps stay."""
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    def program(self, name: str) -> int:
        """Return the descriptor of a program."""
        return int(self._lib.bpf_program__fd(self._lib.bpf_object__find_program_by_name(self._object, name.encode())))

    def map(self, name: str) -> Map:
        """Return a map; global variables are in maps that are named as their section."""
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        return Map(self._lib, name, self._lib.bpf_map__fd(found), self._lib.bpf_map__value_size(found))

    def attach(self, name: str, place: Place) -> None:
        """Attach a program, in place of the one that is there, with no moment without one. BpfError."""
        hook = _hook(place)
        result = self._lib.bpf_tc_hook_create(ctypes.byref(hook))
        if result != -errno.EEXIST:
            _checked(result, "the interface takes no tc program")
        wanted = _filter(place)
        wanted.prog_fd, wanted.flags = self.program(name), _TC_REPLACE
        _checked(self._lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(wanted)), "the program cannot be attached")

    def attach_tracepoint(self, name: str) -> int:
        """Attach a program to the tracepoint that it names; return the link to detach it by. BpfError."""
        ctypes.set_errno(0)
        link = self._lib.bpf_program__attach(self._lib.bpf_object__find_program_by_name(self._object, name.encode()))
        if not link:
            raise BpfError("the program cannot be attached to its tracepoint", ctypes.get_errno())
        return int(link)

    def detach_tracepoint(self, link: int) -> None:
        """Detach what attach_tracepoint() attached."""
        self._lib.bpf_link__destroy(link)

    def run(self, name: str, packet: bytes, context: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a program on a packet (BPF_PROG_TEST_RUN) with a struct __sk_buff as context. BpfError.

        Return its verdict, the packet then, and the context then; that is as long as the given one.
        """
        out = ctypes.create_string_buffer(len(packet) + 256)
        context_out = ctypes.create_string_buffer(context, len(context))
        test = _TestRun(
            sz=ctypes.sizeof(_TestRun),
            data_in=ctypes.cast(c_char_p(packet), c_void_p),
            data_size_in=len(packet),
            data_out=ctypes.addressof(out),
            data_size_out=len(out),
            repeat=1,
        )
        if context:
            test.ctx_in = ctypes.cast(c_char_p(context), c_void_p)
            test.ctx_size_in = len(context)
            test.ctx_out = ctypes.addressof(context_out)
            test.ctx_size_out = len(context_out)
        _checked(self._lib.bpf_prog_test_run_opts(self.program(name), ctypes.byref(test)), "test run")
        return ctypes.c_int32(test.retval).value, out.raw[: test.data_size_out], context_out.raw


def enumeration(lib: ctypes.CDLL, name: str) -> dict[int, str]:
    """Return the names of the running kernel's enum by value (include/uapi/linux/btf.h). BpfError without its BTF."""
    ctypes.set_errno(0)
    btf = lib.btf__load_vmlinux_btf()
    if not btf:
        raise BpfError("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)", ctypes.get_errno())
    try:
        number = _checked(lib.btf__find_by_name_kind(btf, name.encode(), _BTF_ENUM), f"enum {name}")
        words = lib.btf__type_by_id(btf, number)  # struct btf_type: name, info, size; then name and value of each
        count = words[1] & 0xFFFF
        return {words[4 + 2 * i]: lib.btf__name_by_offset(btf, words[3 + 2 * i]).decode() for i in range(count)}
    finally:
        lib.btf__free(btf)


def is_attached(lib: ctypes.CDLL, place: Place) -> bool:
    """Return whether something is attached at a place."""
    hook, found = _hook(place), _filter(place)
    return int(lib.bpf_tc_query(ctypes.byref(hook), ctypes.byref(found))) >= 0


def detach(lib: ctypes.CDLL, place: Place) -> bool:
    """Detach what is attached at a place; return whether there was anything. BpfError."""
    if not is_attached(lib, place):
        return False
    hook, wanted = _hook(place), _filter(place)
    _checked(lib.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(wanted)), "the program cannot be detached")
    return True


def _hook(place: Place) -> _Hook:
    return _Hook(sz=ctypes.sizeof(_Hook), ifindex=place.ifindex, attach_point=_POINTS[place.point])


def _filter(place: Place) -> _Filter:
    return _Filter(sz=ctypes.sizeof(_Filter), handle=place.handle, priority=place.priority)
