from libc.stdint cimport int64_t, uint32_t, uint64_t
from vxland.wire.bigendian cimport put_u16, put_u32, put_u64

cdef uint32_t ENCAP, DECAP, FILLER, FROM_VXLAN

cpdef void put_filler(unsigned char *buf, Py_ssize_t at, Py_ssize_t length) noexcept nogil
cpdef void put_header(unsigned char *buf, Py_ssize_t at, Py_ssize_t length, uint32_t direction, int verdict,
                      uint32_t flags, uint64_t number, int64_t time_ns, uint64_t outer_hi, uint64_t outer_lo,
                      int port, int gso_size, Py_ssize_t kept, Py_ssize_t frame_len) noexcept nogil
