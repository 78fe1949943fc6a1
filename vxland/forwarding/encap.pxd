cimport cython
from libc.stdint cimport int64_t, uint64_t
from vxland.forwarding.recorder cimport Recorder
from vxland.datapath.encap cimport ANSWERED, Encap
from vxland.datapath.limits cimport Limits
from vxland.datapath.segment cimport SLOT_LEN as SEGMENT_SLOT_LEN
from vxland.datapath.segment cimport SLOTS as SEGMENT_SLOTS
from vxland.datapath.segment cimport Segmenter
from vxland.datapath.table cimport Table
from vxland.datapath.train cimport Gather, Train
from vxland.datapath.verdict cimport Counters
from vxland.forwarding.io.buffers cimport FRAMES_LEN, HEADROOM, MAX_FRAME_LEN, SLOT_LEN, Arena
from vxland.forwarding.io.ring cimport ALL_OUTER
from vxland.forwarding.io.syscalls cimport read_frame, send_ranges, write_run
from vxland.wire.virtio cimport GSO_NONE
from vxland.wire.virtio cimport put_header as put_virtio

cdef Py_ssize_t BURST, MANY, WORK, ETH_LEN, VIRTIO_LEN, VXLAN_LEN
cdef int FORWARDED, INNER_MALFORMED, SEND_FAILED, SEND_BUFFER_FULL, OVERLOAD, TOO_BIG, TAP_WRITE_FAILED
cdef int64_t STANDING_US
cdef int AGAIN, INTERRUPTED, NO_BUFFERS, INVALID, IO_ERROR, TOO_LONG

ctypedef unsigned char *buffer_t

@cython.final
cdef class EncapBurst:
    cdef int _tap
    cdef int[::1] _senders
    cdef readonly Encap rules
    cdef Segmenter _segmenter
    cdef Train _train
    cdef Gather _answer
    cdef Arena _arena
    cdef readonly Counters counters
    cdef int64_t _stands_since
    cdef bint _is_overloaded
    cdef public bint too_big
    cdef readonly int fault, segment_errno, last_send_errno, last_write_errno

    cdef Py_ssize_t drain(self, Table table, int64_t now_us, Recorder recorder) noexcept nogil
    @cython.locals(got=Py_ssize_t, work=Py_ssize_t, cursor=Py_ssize_t, at=Py_ssize_t, nbytes=Py_ssize_t)
    cdef Py_ssize_t _drain(self, buffer_t buf, Train train, Table table, int64_t now, Recorder recorder) noexcept nogil
    @cython.locals(verdict=int, work=Py_ssize_t)
    cdef Py_ssize_t _take_frame(self, Encap encap, buffer_t buf, Py_ssize_t at, Py_ssize_t length, Table table,
                                int64_t now, Recorder recorder) noexcept nogil
    cdef void _append(self, Encap encap, Train train, buffer_t buf, Py_ssize_t at, Py_ssize_t length,
                      Table table, Recorder recorder) noexcept nogil
    @cython.locals(fits=bint)
    cdef int _cut(self, Encap encap, Train train, Segmenter segmenter, buffer_t buf, Py_ssize_t at,
                  Py_ssize_t length, Table table, Recorder recorder) noexcept nogil
    @cython.locals(nbytes=Py_ssize_t)
    cdef void _write_answer(self, buffer_t buf, Py_ssize_t at, Py_ssize_t length, Gather answer,
                            Recorder recorder) noexcept nogil
    @cython.locals(nbytes=Py_ssize_t, refused=uint64_t)
    cdef void _send(self, buffer_t buf, Train train, Table table, Recorder recorder) noexcept nogil
    cdef bint _is_long(self, Limits limits, Table table, Py_ssize_t vtep, Py_ssize_t nbytes) noexcept nogil
    @cython.locals(first=Py_ssize_t, count=Py_ssize_t, nbytes=Py_ssize_t)
    cdef void _send_each(self, buffer_t buf, Train train, Table table, Recorder recorder) noexcept nogil
    @cython.locals(verdict=int)
    cdef void _note_sent(self, buffer_t buf, Train train, Py_ssize_t first, Py_ssize_t count, Py_ssize_t nbytes,
                         Py_ssize_t datagrams, Table table, Recorder recorder) noexcept nogil
