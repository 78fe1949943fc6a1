cimport cython
from libc.stdint cimport uint64_t
from vxland.datapath.prefix_map cimport M64, NONE, PrefixMap

cdef Py_ssize_t FEW

@cython.final
cdef class Lineage:
    cdef readonly list vteps
    cdef readonly dict index
    cdef uint64_t[::1] mac, outer_hi, outer_lo, nat_first, nat_hi, nat_lo, nat_mask_hi, nat_mask_lo

    @cython.locals(i=Py_ssize_t, end=Py_ssize_t)
    cpdef void add(self, object vtep, object given)

@cython.final
cdef class Table:
    cdef readonly int port
    cdef readonly bint underlay_v6
    cdef readonly Lineage lineage
    cdef readonly PrefixMap by_mac, by_outer, by_inner_v4, by_inner_v6
    cdef readonly Py_ssize_t count
    cdef uint64_t[::1] vtep_mac, outer_hi, outer_lo, nat_first, nat_hi, nat_lo, nat_mask_hi, nat_mask_lo

    @cython.locals(table=Table)
    cpdef Table _next(self, PrefixMap by_mac, PrefixMap by_outer, PrefixMap by_inner_v4, PrefixMap by_inner_v6)
    cdef void see(self)
    cpdef Py_ssize_t owner_of_inner(self, int version, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(at=uint64_t)
    cpdef bint sends_from(self, Py_ssize_t vtep, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(owner=Py_ssize_t)
    cpdef bint is_inner_source(self, int version, uint64_t hi, uint64_t lo, uint64_t outer_hi,
                               uint64_t outer_lo) noexcept nogil

cdef void _set(PrefixMap found, object key, int length, Lineage lineage, object owner)
cdef uint64_t[::1] _longer(uint64_t[::1] short)
cdef uint64_t[::1] _copied(uint64_t[::1] short, uint64_t[::1] longer)
