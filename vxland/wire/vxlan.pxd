from libc.stdint cimport uint32_t
from vxland.wire.bigendian cimport put_u32, u32_at

cdef unsigned char FLAG_I, FLAG_P, GPE_ETHERNET
cdef uint32_t PLAIN

cpdef bint has_vni(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef bint carries_ethernet(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef uint32_t vni_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef void put_header(unsigned char *buf, Py_ssize_t at, uint32_t vni) noexcept nogil
