cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef uint32_t M32

cpdef uint16_t u16_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
@cython.locals(high=uint32_t)
cpdef uint32_t u32_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
@cython.locals(high=uint64_t)
cpdef uint64_t u64_at(const unsigned char *buf, Py_ssize_t at) noexcept nogil
@cython.locals(i=Py_ssize_t)
cpdef void copy_bytes(unsigned char *buf, Py_ssize_t dst_at, Py_ssize_t src_at, Py_ssize_t length) noexcept nogil
@cython.locals(i=Py_ssize_t)
cpdef bint same_bytes(const unsigned char *buf, Py_ssize_t a_at, Py_ssize_t b_at, Py_ssize_t length) noexcept nogil
cpdef void put_u16(unsigned char *buf, Py_ssize_t at, uint16_t value) noexcept nogil
cpdef void put_u32(unsigned char *buf, Py_ssize_t at, uint32_t value) noexcept nogil
cpdef void put_u64(unsigned char *buf, Py_ssize_t at, uint64_t value) noexcept nogil
