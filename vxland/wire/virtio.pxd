from libc.stdint cimport uint16_t
from vxland.wire.l4 cimport TCP, UDP

cdef unsigned char F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

cpdef uint16_t le16_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef void put_le16(unsigned char *buf, Py_ssize_t at, uint16_t value) noexcept nogil
cpdef bint needs_csum(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef unsigned char gso_type_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef unsigned char gso_type_of(int version, int proto) noexcept nogil
cpdef uint16_t gso_size_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef uint16_t csum_start_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef uint16_t csum_offset_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
cpdef void put_header(unsigned char *buf, Py_ssize_t at, unsigned char flags, unsigned char gso_type, uint16_t hdr_len,
                      uint16_t gso_size, uint16_t csum_start, uint16_t csum_offset) noexcept nogil
