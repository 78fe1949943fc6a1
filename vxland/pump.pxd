cimport cython
from libc.stdint cimport uint64_t
from vxland.datapath.batch cimport CAPACITY, Batch, Datagram
from vxland.datapath.decap cimport Decap
from vxland.datapath.encap cimport ANSWERED, Encap
from vxland.datapath.table cimport Table
from vxland.datapath.verdict cimport Counters
from vxland.kernel.buffers cimport HEADROOM, MAX_FRAME_LEN, SLOT_LEN, Arena
from vxland.kernel.syscalls cimport read_frame, recv_datagram, send_datagram, write_frame
from vxland.wire.virtio cimport put_header as put_virtio

cdef Py_ssize_t ARENA_LEN, MAX_DATAGRAM_LEN, VIRTIO_LEN, VXLAN_LEN
cdef unsigned char GSO_NONE
cdef int NO_ERROR, FORWARDED, SEND_FAILED, SEND_BUFFER_FULL, TAP_WRITE_FAILED, AGAIN, INTERRUPTED, NO_BUFFERS

ctypedef unsigned char *buffer_t

@cython.final
cdef class Pump:
    cdef int _tap, _receiver
    cdef int[::1] _senders
    cdef Encap _encap
    cdef Decap _decap
    cdef object _on_fault
    cdef Batch _batch
    cdef Datagram _datagram
    cdef Arena _encap_arena, _decap_arena
    cdef public Table table
    cdef readonly Counters encap_counters, decap_counters
    cdef readonly int last_send_errno, last_write_errno

    @cython.locals(table=Table, now_s=double, errno=int)
    cpdef void on_tap_readable(self)
    @cython.locals(table=Table)
    cpdef void on_udp_readable(self)
    @cython.locals(errno=int, cursor=Py_ssize_t, at=Py_ssize_t, octets=Py_ssize_t, _=Py_ssize_t)
    cdef int _drain_tap(self, Table table, double now_s) noexcept nogil
    @cython.locals(verdict=int)
    cdef bint _take_frame(self, Encap encap, buffer_t buf, Py_ssize_t at, Py_ssize_t length, Table table,
                          double now_s) noexcept nogil
    @cython.locals(i=Py_ssize_t, octets=Py_ssize_t)
    cdef void _send_batch(self, Batch batch, Table table) noexcept nogil
    @cython.locals(octets=Py_ssize_t, verdict=int, _=Py_ssize_t)
    cdef void _drain_udp(self, Decap decap, buffer_t buf, Table table) noexcept nogil
