cimport cython
from vxland.burst.watch cimport Watch
from vxland.datapath.coalesce cimport Coalescer
from vxland.datapath.datagram cimport Datagram
from vxland.datapath.decap cimport OFF, Decap
from vxland.datapath.table cimport NONE, Table
from vxland.datapath.verdict cimport Counters
from vxland.kernel.buffers cimport FRAMES_LEN, HEADROOM, SLOT_LEN, Arena
from vxland.kernel.syscalls cimport recv_datagram, write_run
from vxland.wire.vxlan cimport has_policy

cdef Py_ssize_t BURST, WORK, MAX_DATAGRAM_LEN
cdef int FORWARDED, TAP_WRITE_FAILED

ctypedef unsigned char *buffer_t

@cython.final
cdef class DecapBurst:
    cdef int _tap, _receiver, _public
    cdef readonly Decap rules
    cdef Coalescer _coalescer
    cdef bint _policies
    cdef Datagram _datagram
    cdef Arena _arena
    cdef Py_ssize_t _vtep
    cdef readonly Counters counters
    cdef readonly int last_write_errno

    cdef Py_ssize_t drain(self, Table table, Watch watch) noexcept nogil
    cdef Py_ssize_t drain_public(self, Table table, Watch watch) noexcept nogil
    @cython.locals(got=Py_ssize_t, work=Py_ssize_t, cursor=Py_ssize_t, at=Py_ssize_t, octets=Py_ssize_t)
    cdef Py_ssize_t _drain(self, int receiver, buffer_t buf, Coalescer run, Table table, Watch watch) noexcept nogil
    @cython.locals(verdict=int, work=Py_ssize_t, end=Py_ssize_t, stride=Py_ssize_t, length=Py_ssize_t)
    cdef Py_ssize_t _take_buffer(self, Decap decap, Coalescer run, buffer_t buf, Py_ssize_t at, Py_ssize_t octets,
                                 Table table, Watch watch) noexcept nogil
    @cython.locals(octets=Py_ssize_t)
    cdef void _write(self, buffer_t buf, Coalescer run, Watch watch) noexcept nogil
