cimport cython
from libc.stdint cimport int64_t

cdef Py_ssize_t MAX_RANGES, MAX_TRAIN_LEN, MOST_SEGMENTS, LEAST_SEGMENT

cpdef bint is_too_fine(Py_ssize_t payload_len, Py_ssize_t gso_size) noexcept nogil

@cython.final
cdef class Gather:
    cdef readonly Py_ssize_t count, nbytes
    cdef readonly int64_t[::1] at, length

    cpdef void add(self, Py_ssize_t at, Py_ssize_t length) noexcept nogil
    cpdef void clear(self) noexcept nogil

@cython.final
cdef class Train:
    cdef public Py_ssize_t max_datagrams
    cdef readonly Gather ranges
    cdef readonly Py_ssize_t datagrams, size, vtep, port
    cdef readonly int marks, plain_marks
    cdef readonly bint ended

    cpdef void begin(self, Py_ssize_t vtep, int marks, Py_ssize_t port, Py_ssize_t size) noexcept nogil
    cpdef bint takes(self, Py_ssize_t vtep, int marks, Py_ssize_t port, Py_ssize_t length) noexcept nogil
    cpdef bint has_room(self, Py_ssize_t length) noexcept nogil
    cpdef void add(self, Py_ssize_t at, Py_ssize_t length) noexcept nogil
    cpdef void note(self, Py_ssize_t length) noexcept nogil
    cpdef void clear(self) noexcept nogil
