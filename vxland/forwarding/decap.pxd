cimport cython
from libc.stdint cimport uint64_t
from vxland.forwarding.recorder cimport Recorder
from vxland.datapath.coalesce cimport Coalescer
from vxland.datapath.datagram cimport Datagram
from vxland.datapath.decap cimport OFF, Decap
from vxland.datapath.segment cimport SLOT_LEN as SEGMENT_SLOT_LEN
from vxland.datapath.segment cimport SLOTS as SEGMENT_SLOTS
from vxland.datapath.segment cimport Segmenter
from vxland.datapath.prefix_map cimport NONE
from vxland.datapath.table cimport Table
from vxland.datapath.train cimport Gather, Train
from vxland.datapath.verdict cimport Counters
from vxland.forwarding.io.buffers cimport FRAMES_LEN, HEADROOM, SLOT_LEN, Arena
from vxland.forwarding.io.syscalls cimport recv_datagram, write_run
from vxland.wire.virtio cimport GSO_NONE, GSO_UDP_L4
from vxland.wire.virtio cimport put_header as put_virtio

cdef Py_ssize_t BURST, WORK, MAX_DATAGRAM_LEN, MAX_DATAGRAMS, FEW_SEGMENTS, VIRTIO_LEN, VXLAN_LEN
cdef int FORWARDED, TRUNCATED, TAP_WRITE_FAILED, INVALID, TOO_LONG

ctypedef unsigned char *buffer_t

@cython.final
cdef class DecapBurst:
    cdef int _tap, _receiver, _public
    cdef readonly Decap rules
    cdef Coalescer _coalescer
    cdef Datagram _datagram
    cdef Arena _arena
    cdef Py_ssize_t _vtep
    cdef readonly Counters counters
    cdef readonly int last_write_errno, tcp_errno, udp_errno
    cdef readonly bint sizes_lost
    cdef public bint refused, gro
    cdef Decap _again
    cdef Coalescer _plain
    cdef Segmenter _segmenter
    cdef Train _train
    cdef Gather _segment

    cdef Py_ssize_t drain(self, Table table, Recorder recorder) noexcept nogil
    cdef Py_ssize_t drain_public(self, Table table, Recorder recorder) noexcept nogil
    @cython.locals(got=Py_ssize_t, work=Py_ssize_t, cursor=Py_ssize_t, at=Py_ssize_t, nbytes=Py_ssize_t)
    cdef Py_ssize_t _drain(self, int receiver, buffer_t buf, Coalescer run, Table table,
                           Recorder recorder) noexcept nogil
    cdef void _lose(self, buffer_t buf, Py_ssize_t at, Py_ssize_t nbytes, Recorder recorder) noexcept nogil
    @cython.locals(verdict=int, work=Py_ssize_t, end=Py_ssize_t, stride=Py_ssize_t, length=Py_ssize_t)
    cdef Py_ssize_t _take_buffer(self, Decap decap, Coalescer run, buffer_t buf, Py_ssize_t at, Py_ssize_t nbytes,
                                 Table table, Recorder recorder) noexcept nogil
    @cython.locals(nbytes=Py_ssize_t)
    cdef void _write(self, buffer_t buf, Coalescer run, Recorder recorder) noexcept nogil
    @cython.locals(failed=uint64_t, pieces=Py_ssize_t, inner_stride=Py_ssize_t, number=Py_ssize_t, at=Py_ssize_t,
                   length=Py_ssize_t, nbytes=Py_ssize_t, few=bint)
    cdef void _write_plainly(self, buffer_t buf, Coalescer run, int code, Decap again, Recorder recorder) noexcept nogil
    @cython.locals(nbytes=Py_ssize_t, few=bint)
    cdef void _cut(self, buffer_t buf, Decap again, Segmenter segmenter, Train train, Recorder recorder) noexcept nogil
    @cython.locals(nbytes=Py_ssize_t, first=Py_ssize_t)
    cdef Py_ssize_t _write_train(self, buffer_t buf, Train train) noexcept nogil
    cdef void _note_written(self, buffer_t buf, Gather ranges, Py_ssize_t written, Py_ssize_t frames, Py_ssize_t nbytes,
                            Recorder recorder) noexcept nogil
