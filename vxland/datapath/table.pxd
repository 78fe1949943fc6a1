cimport cython
from libc.stdint cimport int64_t, uint64_t

cdef Py_ssize_t NONE
cdef uint64_t EMPTY, M32, M64, SCRAMBLE

@cython.final
cdef class PrefixMap:
    cdef readonly Py_ssize_t lengths
    cdef Py_ssize_t width
    cdef uint64_t[::1] mask_hi, mask_lo, wrap, records
    cdef int64_t[::1] first
    cdef uint64_t seed_0, seed_1, seed_2, seed_3, seed_4

    @cython.locals(total=uint64_t, word=uint64_t)
    cpdef uint64_t hash_of(self, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(area=Py_ssize_t, masked_hi=uint64_t, masked_lo=uint64_t, wrap=uint64_t, slot=uint64_t,
                   at=Py_ssize_t)
    cpdef Py_ssize_t lookup(self, uint64_t hi, uint64_t lo) noexcept nogil

@cython.final
cdef class Table:
    cdef readonly tuple leases, vteps
    cdef readonly list destinations
    cdef readonly int port
    cdef readonly bint underlay_v6
    cdef uint64_t[::1] vtep_mac, outer_hi, outer_lo
    cdef readonly PrefixMap by_mac, by_outer, by_inner_v4, by_inner_v6
    cdef int64_t[::1] nat_first
    cdef uint64_t[::1] nat_hi, nat_lo, nat_mask_hi, nat_mask_lo

    cpdef Py_ssize_t owner_of_inner(self, int version, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(at=Py_ssize_t)
    cpdef bint sends_from(self, Py_ssize_t vtep, uint64_t hi, uint64_t lo) noexcept nogil
    @cython.locals(owner=Py_ssize_t)
    cpdef bint is_inner_source(self, int version, uint64_t hi, uint64_t lo, uint64_t outer_hi,
                               uint64_t outer_lo) noexcept nogil
