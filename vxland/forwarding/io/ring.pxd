cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from vxland.forwarding.io.syscalls cimport copy_between, fence, now_ns
from vxland.wire.bigendian cimport u32_at
from vxland.wire.record cimport put_filler, put_header

cdef Py_ssize_t RECORD_LEN
cdef int ALL_INNER, ALL_OUTER

@cython.final
cdef class Ring:
    cdef readonly Py_ssize_t length
    cdef public Py_ssize_t snaplen
    cdef public int mode
    cdef readonly bytearray memory
    cdef unsigned char *base
    cdef readonly uint64_t number
    cdef readonly int64_t head, tail, since
    cdef int64_t _time_ns
    cdef bint _is_held
    cdef Py_ssize_t _at, _left, _record_len

    cpdef void hold(self) noexcept nogil
    cpdef void release(self) noexcept nogil
    @cython.locals(since=int64_t)
    cpdef int64_t mark(self, int64_t now)
    @cython.locals(kept=Py_ssize_t, at=Py_ssize_t)
    cpdef void start(self, Py_ssize_t length, uint32_t direction, int verdict, uint32_t flags, uint64_t outer_hi,
                     uint64_t outer_lo, int port, int gso_size) noexcept nogil
    cpdef void add(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t length) noexcept nogil
    cpdef void finish(self) noexcept nogil
    cdef void _stamp(self) noexcept nogil
    cdef void _make_room(self, Py_ssize_t nbytes) noexcept nogil
    @cython.locals(head=int64_t, start=Py_ssize_t, stop=Py_ssize_t)
    cpdef tuple read(self, int64_t cursor)
