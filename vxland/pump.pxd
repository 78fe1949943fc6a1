cimport cython
from libc.stdint cimport int64_t, uint64_t
from vxland.datapath.coalesce cimport Coalescer
from vxland.datapath.datagram cimport Datagram
from vxland.datapath.decap cimport Decap
from vxland.datapath.encap cimport ANSWERED, Encap
from vxland.datapath.segment cimport SLOT_LEN as SEGMENT_SLOT_LEN
from vxland.datapath.segment cimport SLOTS as SEGMENT_SLOTS
from vxland.datapath.segment cimport Segmenter
from vxland.datapath.table cimport Table
from vxland.datapath.train cimport Gather, Train
from vxland.datapath.verdict cimport Counters
from vxland.kernel.buffers cimport HEADROOM, MAX_FRAME_LEN, SLOT_LEN, Arena
from vxland.kernel.syscalls cimport now_us, read_frame, recv_datagram, send_ranges, write_run
from vxland.wire.virtio cimport GSO_NONE
from vxland.wire.virtio cimport put_header as put_virtio

cdef Py_ssize_t BURST, FRAMES_LEN, MAX_DATAGRAM_LEN, VIRTIO_LEN, VXLAN_LEN
cdef int64_t MAX_POLL_US
cdef int FORWARDED, INNER_MALFORMED, SEND_FAILED, SEND_BUFFER_FULL, TAP_WRITE_FAILED
cdef int AGAIN, INTERRUPTED, NO_BUFFERS, INVALID, IO_ERROR, TOO_LONG

ctypedef unsigned char *buffer_t

@cython.final
cdef class Pump:
    cdef int _tap, _receiver
    cdef int[::1] _senders
    cdef Encap _encap
    cdef Decap _decap
    cdef Coalescer _coalescer
    cdef Segmenter _segmenter
    cdef object _on_fault, _on_refused
    cdef Train _train
    cdef Gather _answer
    cdef Datagram _datagram
    cdef Arena _encap_arena, _decap_arena
    cdef public Table table
    cdef readonly Counters encap_counters, decap_counters
    cdef int64_t busy_poll_us
    cdef int _fault
    cdef readonly int last_send_errno, last_write_errno, segment_errno

    @cython.locals(table=Table)
    cpdef void on_tap_readable(self)
    @cython.locals(table=Table)
    cpdef void on_udp_readable(self)
    @cython.locals(start_us=int64_t, last_us=int64_t, now=int64_t, got=Py_ssize_t)
    cdef void _poll(self, Table table) noexcept nogil
    @cython.locals(got=Py_ssize_t, cursor=Py_ssize_t, at=Py_ssize_t, octets=Py_ssize_t)
    cdef Py_ssize_t _drain_tap(self, buffer_t buf, Train train, Table table, int64_t now) noexcept nogil
    @cython.locals(verdict=int)
    cdef void _take_frame(self, Encap encap, buffer_t buf, Py_ssize_t at, Py_ssize_t length, Table table,
                          int64_t now) noexcept nogil
    cdef void _board(self, Encap encap, Train train, buffer_t buf, Py_ssize_t at, Py_ssize_t length,
                     Table table) noexcept nogil
    cdef void _cut(self, Encap encap, Train train, Segmenter segmenter, buffer_t buf, Py_ssize_t at,
                   Table table) noexcept nogil
    @cython.locals(octets=Py_ssize_t)
    cdef void _write_answer(self, buffer_t buf, Py_ssize_t at, Py_ssize_t length, Gather answer) noexcept nogil
    @cython.locals(octets=Py_ssize_t)
    cdef void _send(self, buffer_t buf, Train train, Table table) noexcept nogil
    @cython.locals(first=Py_ssize_t, count=Py_ssize_t, octets=Py_ssize_t)
    cdef void _send_each(self, buffer_t buf, Train train, Table table) noexcept nogil
    cdef void _count_sent(self, Py_ssize_t octets, Py_ssize_t datagrams) noexcept nogil
    @cython.locals(got=Py_ssize_t, cursor=Py_ssize_t, at=Py_ssize_t, octets=Py_ssize_t)
    cdef Py_ssize_t _drain_udp(self, buffer_t buf, Coalescer run, Table table) noexcept nogil
    @cython.locals(verdict=int, end=Py_ssize_t, stride=Py_ssize_t)
    cdef void _take_buffer(self, Decap decap, Coalescer run, buffer_t buf, Py_ssize_t at, Py_ssize_t octets,
                           Table table) noexcept nogil
    @cython.locals(octets=Py_ssize_t)
    cdef void _write(self, buffer_t buf, Coalescer run) noexcept nogil
