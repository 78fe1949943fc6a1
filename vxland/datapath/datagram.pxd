cimport cython
from libc.stdint cimport uint64_t

@cython.final
cdef class Datagram:
    cdef public uint64_t outer_src_hi, outer_src_lo
    cdef public int port, ecn
    cdef public Py_ssize_t stride
    cdef public bint truncated, fragmented, untold
