cimport cython
from libc.stdint cimport uint16_t, uint64_t
from vxland.datapath.datagram cimport Datagram
from vxland.datapath.prefix_map cimport NONE
from vxland.datapath.table cimport Table
from vxland.datapath.train cimport LEAST_SEGMENT as LEAST_SENT
from vxland.datapath.train cimport MOST_SEGMENTS, is_too_fine
from vxland.wire.arp cimport is_ipv4, sender_at
from vxland.wire.ethernet cimport SRC_OFF as ETH_SRC_OFF
from vxland.wire.ethernet cimport TYPE_OFF as ETH_TYPE_OFF
from vxland.wire.ethernet cimport mac_at
from vxland.wire.ip cimport Ip, is_extension
from vxland.wire.l4 cimport UDP, csum_off, has_cwr, has_ports, header_len, may_be_cut
from vxland.wire.ndp cimport is_advertisement, target_hi_at, target_lo_at
from vxland.wire.bigendian cimport u16_at
from vxland.wire.virtio cimport GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4
from vxland.wire.vxlan cimport carries_ethernet, has_vni, vni_at

cdef Py_ssize_t ETH_LEN, VXLAN_LEN, SAFE_LEN_V4, SAFE_LEN_V6, LEAST_SEGMENT
cdef uint16_t TYPE_ARP, TYPE_IPV4, TYPE_IPV6
cdef int FORWARDED, TOO_SHORT, TRUNCATED, I_FLAG_CLEAR, NEXT_PROTOCOL, WRONG_VNI, UNKNOWN_VTEP, INNER_MALFORMED
cdef int OWN_MAC, ECN_CE, INNER_SOURCE_FOREIGN, OFF, STRICT, NOT_ECT, ECT_1, ECT_0, CE

@cython.final
cdef class Decap:
    cdef readonly unsigned int vni
    cdef readonly uint64_t own_mac
    cdef readonly Py_ssize_t frame_at, frame_len, payload_at, gso_size, inner_stride, vtep
    cdef readonly int gso_type
    cdef readonly bint partial, in_train
    cdef public int check_source
    cdef readonly Ip ip

    @cython.locals(packet_at=Py_ssize_t, packet_len=Py_ssize_t, ethertype=uint16_t)
    cpdef Py_ssize_t stride_of(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t length,
                               Py_ssize_t stride) noexcept nogil
    cpdef void find_source(self, Datagram datagram, Table table) noexcept nogil
    cpdef int decap(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Datagram datagram,
                    Table table) noexcept nogil
    @cython.locals(ethertype=uint16_t, is_ip=bint)
    cdef int _check_frame(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Datagram datagram,
                          Table table) noexcept nogil
    @cython.locals(ethertype=uint16_t, is_ip=bint)
    cpdef void look_again(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, bint exact,
                          Py_ssize_t inner_stride, Py_ssize_t reported) noexcept nogil
    @cython.locals(outer_hi=uint64_t, outer_lo=uint64_t, target_hi=uint64_t, target_lo=uint64_t)
    cdef bint _knows_sender(self, const unsigned char *buf, Py_ssize_t at, Py_ssize_t length, uint16_t ethertype,
                            Ip ip, Datagram datagram, Table table) noexcept nogil
    @cython.locals(inner=int)
    cdef bint _merge_ecn(self, unsigned char *buf, int outer) noexcept nogil
    @cython.locals(l4_len=Py_ssize_t)
    cdef void _look_at_l4(self, const unsigned char *buf, Ip ip, Py_ssize_t reported) noexcept nogil
    @cython.locals(size=Py_ssize_t)
    cdef void _declare_segments(self, const unsigned char *buf, Ip ip, Py_ssize_t reported) noexcept nogil
