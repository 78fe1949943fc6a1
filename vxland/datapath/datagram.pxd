cimport cython
from libc.stdint cimport uint32_t, uint64_t

cdef uint32_t MAGIC, SIZE_MASK

cpdef Py_ssize_t segment_size_of(uint32_t mark) noexcept nogil

@cython.final
cdef class Datagram:
    cdef public uint64_t outer_src_hi, outer_src_lo
    cdef public int port, ecn
    cdef public Py_ssize_t stride, segment_size
    cdef public bint truncated, fragmented, untold
