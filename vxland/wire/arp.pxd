cimport cython
from libc.stdint cimport uint32_t, uint64_t
from vxland.wire.ethernet cimport SRC_OFF as ETH_SRC_OFF
from vxland.wire.ethernet cimport mac_at, put_mac
from vxland.wire.bigendian cimport put_u16, put_u32, u32_at, u64_at

cdef Py_ssize_t FRAME_LEN, ETH_LEN, OP_OFF, SENDER_MAC_OFF, SENDER_IP_OFF, TARGET_MAC_OFF, TARGET_IP_OFF
cdef int OP_REPLY
cdef uint64_t ETHERNET_IPV4_REQUEST

cpdef bint is_ipv4(const unsigned char *buf, Py_ssize_t frame_at, Py_ssize_t frame_len) noexcept nogil
cpdef bint is_request(const unsigned char *buf, Py_ssize_t frame_at, Py_ssize_t frame_len) noexcept nogil
cpdef uint32_t sender_at(const unsigned char *buf, Py_ssize_t frame_at) noexcept nogil
cpdef uint32_t target_at(const unsigned char *buf, Py_ssize_t frame_at) noexcept nogil
@cython.locals(target_ip=uint32_t, sender_mac=uint64_t)
cpdef Py_ssize_t put_reply(unsigned char *buf, Py_ssize_t frame_at, uint64_t mac) noexcept nogil
