cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vxland.wire.ethernet cimport SRC_OFF as ETH_SRC_OFF
from vxland.wire.ethernet cimport mac_at, put_mac
from vxland.wire.ethernet cimport put_header as put_ethernet
from vxland.wire.icmp cimport ICMPV6, put_v6
from vxland.wire.ip cimport Ip, V6_LEN
from vxland.wire.bigendian cimport put_u16, put_u32, put_u64, u16_at, u64_at

cdef Py_ssize_t ETH_LEN, TARGET_OFF, SOLICITATION_LEN, ADVERTISEMENT_LEN
cdef uint16_t TYPE_IPV6, SOLICITATION, ADVERTISEMENT, HOP_LIMIT, TARGET_MAC_OPTION
cdef uint32_t SOLICITED_OVERRIDE

cpdef bint is_solicitation(const unsigned char *buf, Ip ip) noexcept nogil
cpdef bint is_advertisement(const unsigned char *buf, Ip ip) noexcept nogil
cpdef uint64_t target_hi_at(const unsigned char *buf, Py_ssize_t icmp_at) noexcept nogil
cpdef uint64_t target_lo_at(const unsigned char *buf, Py_ssize_t icmp_at) noexcept nogil
@cython.locals(target_hi=uint64_t, target_lo=uint64_t, ip_at=Py_ssize_t, icmp_at=Py_ssize_t)
cpdef Py_ssize_t put_advertisement(unsigned char *buf, Py_ssize_t frame_at, Ip ip, uint64_t mac) noexcept nogil
