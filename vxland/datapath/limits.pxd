cimport cython
from libc.stdint cimport uint64_t
from vxland.datapath.prefix_map cimport PrefixMap

cdef Py_ssize_t UNLIMITED

@cython.final
cdef class Limits:
    cdef readonly object inner
    cdef readonly bint narrow
    cdef PrefixMap by_outer

    @cython.locals(found=Py_ssize_t)
    cpdef Py_ssize_t most(self, uint64_t outer_hi, uint64_t outer_lo) noexcept nogil
