cimport cython
from libc.stdint cimport uint16_t, uint64_t
from vxland.wire.checksum cimport adjust, fold, sum_u64
from vxland.wire.bigendian cimport put_u16, u16_at, u32_at, u64_at

cdef int V4_LEN, V6_LEN, MAX_EXTENSIONS, HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTIONS
cdef int SOURCE_ROUTE, MOBILE_ROUTE, RPL_ROUTE, SEGMENT_ROUTE
cdef Py_ssize_t ROUTE_LEN, ADDRESS_LEN

cpdef bint is_extension(int proto) noexcept nogil
@cython.locals(shift=int)
cdef uint64_t _with_byte(uint64_t value, int place, uint64_t byte) noexcept nogil

@cython.final
cdef class Ip:
    cdef readonly int version, ecn, proto
    cdef readonly Py_ssize_t at, end, l4_at
    cdef readonly uint64_t src_hi, src_lo, dst_hi, dst_lo, final_hi, final_lo
    cdef readonly bint later_fragment

    cpdef bint parse(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t room, int version) noexcept nogil
    @cython.locals(header_len=Py_ssize_t, total_len=Py_ssize_t, fragment=int)
    cdef bint _parse_v4(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t room) noexcept nogil
    @cython.locals(payload_len=Py_ssize_t)
    cdef bint _parse_v6(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t room) noexcept nogil
    @cython.locals(length=Py_ssize_t, _=int)
    cdef bint _walk_extensions(self, const unsigned char *buf, int proto, Py_ssize_t at) noexcept nogil
    @cython.locals(kind=int, tail_len=Py_ssize_t, first_at=Py_ssize_t, final_at=Py_ssize_t, hi=uint64_t, lo=uint64_t,
                   i=Py_ssize_t)
    cdef void _find_final(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t length) noexcept nogil
    cpdef uint16_t pseudo_sum(self) noexcept nogil
    @cython.locals(old=uint16_t, new=uint16_t)
    cpdef void put_ecn(self, unsigned char *buf, int ecn) noexcept nogil
