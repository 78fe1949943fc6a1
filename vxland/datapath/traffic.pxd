cimport cython
from libc.stdint cimport uint64_t
from vxland.datapath.table cimport Lineage

cdef Py_ssize_t FIELDS

@cython.final
cdef class Traffic:
    cdef readonly Lineage lineage
    cdef uint64_t[::1] counts

    cpdef void reserve(self, Py_ssize_t vteps)
    @cython.locals(i=Py_ssize_t)
    cdef void _extend(self, uint64_t[::1] counts)
    cpdef void sent(self, Py_ssize_t vtep, Py_ssize_t frames, Py_ssize_t nbytes) noexcept nogil
    cpdef void took(self, Py_ssize_t vtep, Py_ssize_t frames, Py_ssize_t nbytes) noexcept nogil
