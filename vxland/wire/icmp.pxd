cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vxland.wire.checksum cimport complement, sum_bytes
from vxland.wire.ethernet cimport put_header as put_ethernet
from vxland.wire.ip cimport Ip, V4_LEN, V6_LEN
from vxland.wire.bigendian cimport put_u16, put_u32, put_u64

cdef Py_ssize_t ETH_LEN, ICMP_LEN, V4_MAX_LEN, V6_MAX_LEN
cdef uint16_t TYPE_IPV4, TYPE_IPV6, ICMP, ICMPV6, V4_UNREACHABLE, V6_UNREACHABLE, V4_TOO_BIG, V6_TOO_BIG, V4_TOS, TTL

cpdef bint is_error(const unsigned char *buf, Ip ip) noexcept nogil
cpdef bint may_answer(const unsigned char *buf, Ip ip) noexcept nogil
cpdef Py_ssize_t put_unreachable(unsigned char *buf, Ip ip, uint64_t dst_mac, uint64_t src_mac) noexcept nogil
cpdef Py_ssize_t put_too_big(unsigned char *buf, Ip ip, uint32_t mtu, uint64_t dst_mac, uint64_t src_mac) noexcept nogil
@cython.locals(room=Py_ssize_t)
cpdef Py_ssize_t quoted_len(Ip ip) noexcept nogil
@cython.locals(icmp_at=Py_ssize_t, ip_at=Py_ssize_t, icmp_len=Py_ssize_t)
cdef Py_ssize_t _put_v4(unsigned char *buf, Ip ip, uint16_t kind, uint32_t mtu,
                        uint64_t dst_mac, uint64_t src_mac) noexcept nogil
@cython.locals(icmp_at=Py_ssize_t, icmp_len=Py_ssize_t)
cdef Py_ssize_t _put_v6(unsigned char *buf, Ip ip, uint16_t kind, uint32_t mtu,
                        uint64_t dst_mac, uint64_t src_mac) noexcept nogil
@cython.locals(icmp_at=Py_ssize_t, total=uint64_t)
cpdef void put_v6(unsigned char *buf, Py_ssize_t at, Py_ssize_t icmp_len, uint16_t hop_limit,
                  uint64_t src_hi, uint64_t src_lo, uint64_t dst_hi, uint64_t dst_lo) noexcept nogil
