from libc.stdint cimport uint16_t, uint64_t
cimport cython
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from vxland.wire.bigendian cimport put_u16

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t)


cpdef uint16_t fold(uint64_t total) noexcept nogil


# One's complement sums don't depend on the byte order (RFC 1071 section 2 B), so this loads 32 bits at a time as they
# lie, which the C compiler turns into vector loads, and swaps the two bytes of the result.
cdef inline uint64_t sum_words(const unsigned char *buf, Py_ssize_t at, Py_ssize_t length) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t wide
    cdef uint16_t narrow
    cdef Py_ssize_t i
    for i in range(length >> 2):
        memcpy(&wide, buf + at + 4 * i, 4)
        total += wide
    if length & 2:
        memcpy(&narrow, buf + at + length - 2, 2)
        total += narrow
    return ntohs(fold(total))

@cython.locals(even=Py_ssize_t, total=uint64_t)
cpdef uint64_t sum_bytes(const unsigned char *buf, Py_ssize_t at, Py_ssize_t length, uint64_t start) noexcept nogil
cpdef uint64_t sum_u64(uint64_t value) noexcept nogil
cpdef uint16_t complement(uint64_t total) noexcept nogil
cpdef uint16_t adjust(uint16_t checksum, uint16_t old, uint16_t new) noexcept nogil
@cython.locals(checksum=uint16_t)
cpdef void finish(unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Py_ssize_t csum_offset) noexcept nogil
