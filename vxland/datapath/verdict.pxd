cimport cython
from libc.stdint cimport uint64_t

@cython.final
cdef class Counters:
    cdef readonly uint64_t frames, bytes, answers, wakeups, reads, batches, superframes, fragmented
    cdef readonly uint64_t[::1] drops
