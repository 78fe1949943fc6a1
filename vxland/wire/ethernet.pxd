cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vxland.wire.bigendian cimport put_u16, u16_at, u32_at

cdef Py_ssize_t SRC_OFF, TYPE_OFF

@cython.locals(high=uint64_t)
cpdef uint64_t mac_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef void put_mac(unsigned char *buf, Py_ssize_t at, uint64_t mac) noexcept nogil
cpdef bint is_group(uint64_t mac) noexcept nogil
cpdef void put_header(unsigned char *buf, Py_ssize_t at, uint64_t dst, uint64_t src, uint16_t ethertype) noexcept nogil
