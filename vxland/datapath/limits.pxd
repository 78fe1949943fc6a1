cimport cython
from libc.stdint cimport int64_t
from vxland.datapath.table cimport Table

@cython.final
cdef class Limits:
    cdef readonly Table table
    cdef readonly int64_t[::1] most
    cdef readonly bint narrow
