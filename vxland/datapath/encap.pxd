cimport cython
from libc.stdint cimport int64_t, uint16_t, uint64_t
from vxland.datapath.limits cimport Limits
from vxland.datapath.partial cimport Finisher
from vxland.datapath.prefix_map cimport M64, NONE
from vxland.datapath.table cimport Table
from vxland.wire.arp cimport is_request, put_reply, target_at
from vxland.wire.ethernet cimport SRC_OFF as ETH_SRC_OFF
from vxland.wire.ethernet cimport TYPE_OFF as ETH_TYPE_OFF
from vxland.wire.ethernet cimport is_group, mac_at, put_mac
from vxland.wire.icmp cimport may_answer, put_too_big, put_unreachable, quoted_len
from vxland.wire.ip cimport Ip
from vxland.wire.l4 cimport csum_off, has_ports, header_len
from vxland.wire.ndp cimport is_solicitation, put_advertisement, target_hi_at, target_lo_at
from vxland.wire.bigendian cimport u16_at
from vxland.wire.virtio cimport GSO_NONE, csum_offset_at, csum_start_at, gso_size_at, gso_type_at, gso_type_of
from vxland.wire.virtio cimport needs_csum
from vxland.wire.vxlan cimport put_header as put_vxlan

cdef Py_ssize_t ETH_LEN, VIRTIO_LEN, VXLAN_LEN
cdef uint16_t TYPE_ARP, TYPE_IPV4, TYPE_IPV6
cdef int ANSWERED, FORWARDED, INNER_MALFORMED, BUM, NO_VTEP, TOO_BIG, DF, ECN_BITS, TOS_BITS
cdef Py_ssize_t V6_MIN_MTU
cdef int64_t ERROR_US, ERRORS_BURST
cdef uint64_t _MIX_HI, _MIX_LO

@cython.final
cdef class Encap:
    cdef readonly uint64_t ports
    cdef readonly unsigned int vni
    cdef readonly Ip ip
    cdef readonly Finisher finisher
    cdef public Limits limits
    cdef readonly int marks, dscp, tos_bits
    cdef readonly bint inherits, inherits_ttl, inherits_df, sets_df
    cdef readonly Py_ssize_t vtep, port, gso_size, csum_start, answer_at, answer_len
    cdef int64_t errors_until_us

    @cython.locals(ethertype=uint16_t, looks_ip=bint, is_ip=bint, inner_dst_mac=uint64_t)
    cpdef int encap(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Table table,
                    int64_t now_us) noexcept nogil
    cdef bint _is_superframe(self, const unsigned char *buf, Py_ssize_t virtio_at) noexcept nogil
    @cython.locals(virtio_at=Py_ssize_t, may_cut=bint, start=Py_ssize_t, offset=Py_ssize_t)
    cdef bint _take_offloads(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, bint looks_ip,
                             bint is_ip) noexcept nogil
    @cython.locals(owner=Py_ssize_t, icmp_at=Py_ssize_t)
    cdef bint _answer(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, uint16_t ethertype, bint is_ip,
                      Table table) noexcept nogil
    @cython.locals(quote_end=Py_ssize_t, src_mac=uint64_t, dst_mac=uint64_t)
    cdef void _answer_error(self, unsigned char *buf, Py_ssize_t at, int64_t now_us, Py_ssize_t mtu) noexcept nogil
    @cython.locals(ip_at=Py_ssize_t, v4=bint)
    cdef void _take_over(self, const unsigned char *buf) noexcept nogil
    cdef bint _has_df(self, const unsigned char *buf) noexcept nogil
    @cython.locals(most=Py_ssize_t, has_df=bint)
    cdef bint _is_too_big(self, unsigned char *buf, Py_ssize_t at, Table table, int64_t now_us) noexcept nogil
    @cython.locals(whole=Py_ssize_t, l4_len=Py_ssize_t)
    cdef Py_ssize_t _packet_len(self, const unsigned char *buf) noexcept nogil
    @cython.locals(ports=uint64_t)
    cdef uint64_t _flow_hash(self, const unsigned char *buf, Py_ssize_t at, bint is_ip) noexcept nogil

cdef uint64_t _mix(uint64_t hi, uint64_t lo) noexcept nogil
