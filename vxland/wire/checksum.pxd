from libc.stdint cimport uint16_t, uint64_t
cimport cython
from vxland.wire.octets cimport put_u16, u16_at

cpdef uint16_t fold(uint64_t total) noexcept nogil
@cython.locals(end=Py_ssize_t, total=uint64_t)
cpdef uint64_t sum_octets(const unsigned char *buf, Py_ssize_t at, Py_ssize_t length, uint64_t start) noexcept nogil
cpdef uint64_t sum_u64(uint64_t value) noexcept nogil
cpdef uint16_t complement(uint64_t total) noexcept nogil
cpdef uint16_t adjust(uint16_t checksum, uint16_t old, uint16_t new) noexcept nogil
@cython.locals(checksum=uint16_t)
cpdef void finish(unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Py_ssize_t csum_offset) noexcept nogil
