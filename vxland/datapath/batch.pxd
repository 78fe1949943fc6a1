cimport cython
from libc.stdint cimport int64_t, uint64_t

cdef Py_ssize_t CAPACITY

@cython.final
cdef class Batch:
    cdef readonly Py_ssize_t count
    cdef int64_t[::1] at, length, vtep, ecn, port

    @cython.locals(i=Py_ssize_t)
    cpdef void add(self, Py_ssize_t at, Py_ssize_t length, Py_ssize_t vtep, int ecn, Py_ssize_t port) noexcept nogil
    cpdef void clear(self) noexcept nogil

@cython.final
cdef class Datagram:
    cdef public uint64_t outer_src_hi, outer_src_lo
    cdef public int ecn
    cdef public bint truncated
