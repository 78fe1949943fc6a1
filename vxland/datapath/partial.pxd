cimport cython
from libc.stdint cimport uint16_t
from vxland.wire.checksum cimport finish
from vxland.wire.ip cimport V4_LEN, Ip
from vxland.wire.l4 cimport UDP, UDP_LEN, carries_packets, has_csum_at, has_ports
from vxland.wire.bigendian cimport u16_at

cdef Py_ssize_t ETH_LEN, TAG_LEN, INNER_HEADER_MOST
cdef int MAX_TAGS
cdef uint16_t TYPE_IPV4, TYPE_IPV6, TYPE_VLAN, TYPE_VLAN_OUTER

@cython.final
cdef class Finisher:
    cdef readonly Ip tagged, inner

    @cython.locals(payload_at=Py_ssize_t)
    cpdef bint finish_plain(self, unsigned char *buf, Ip ip, Py_ssize_t csum_start,
                            Py_ssize_t csum_offset) noexcept nogil
    @cython.locals(end=Py_ssize_t, ip_at=Py_ssize_t, version=int, ethertype=uint16_t, _=int)
    cpdef bint finish_tagged(self, unsigned char *buf, Py_ssize_t at, Py_ssize_t length, Py_ssize_t csum_start,
                             Py_ssize_t csum_offset) noexcept nogil
    @cython.locals(at=Py_ssize_t, least_at=Py_ssize_t, version=int, parsed=bint)
    cdef bint _find_inner(self, const unsigned char *buf, Py_ssize_t payload_at, Py_ssize_t end,
                          Py_ssize_t csum_start, Py_ssize_t csum_offset) noexcept nogil
    cdef bint _is_left(self, const unsigned char *buf, Ip ip, Py_ssize_t csum_start,
                       Py_ssize_t csum_offset) noexcept nogil
